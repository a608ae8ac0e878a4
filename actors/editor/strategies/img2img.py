"""img2img (SDEdit, Meng et al. 2022) and inpainting: follow a caption from the noised latents of the source."""

from dataclasses import dataclass
from typing import Any

import torch

from actors.editor.strategies.latents import SourceLatents
from actors.editor.strategies.strategy import (
    EditBatch,
    EditText,
    GuidanceWeight,
    Scale,
    negative_prompts,
    text_guidance,
    true_guidance,
)
from actors.models.untyped import Pipeline
from engine.sample import Edit


@dataclass(frozen=True, kw_only=True)
class Img2Img:
    """Follow Edit.caption; severity scales the strength, which is the share of the steps that an edit takes.

    With `inpaints` only what the mask covers is redrawn, by a UNet with channels for the mask or by blending latents.
    """

    loader: str
    is_batched: bool
    guidance_scale: float
    negative_prompt: str | None
    has_true_guidance: bool
    strength: float
    num_inference_steps: int
    inpaints: bool = False

    def text(self, edit: Edit) -> EditText:
        """Return the caption."""
        return EditText(text=edit.caption)

    def settings(self, severity: float) -> dict[str, float]:
        """Return guidance scale and strength; the strength is of one step at least."""
        # Pipelines run int(steps * strength) steps: a hair above 1 / steps, or rounding makes that none.
        strength = min(1.0, max(self.strength * severity, 1.001 / self.num_inference_steps))
        return {"guidance_scale": self.guidance_scale, "strength": strength}

    def supports_severity(self, pipeline: Pipeline) -> bool:
        """Return True: less noise is a milder edit."""
        return True

    def arguments(self, pipeline: Pipeline, batch: EditBatch) -> dict[str, Any]:
        """Return sources, negative prompts and true guidance, for inpainting masks as well."""
        count, masked = len(batch.texts), {"mask_image": batch.masks} if self.inpaints else {}
        guidance = true_guidance(self.guidance_scale, self.negative_prompt, count) if self.has_true_guidance else {}
        return {"image": batch.images, **negative_prompts(self.negative_prompt, count), **guidance, **masked}

    def guidance(self, severity: float) -> tuple[GuidanceWeight, ...]:
        """Return the weights of classifier-free guidance."""
        return text_guidance(self.guidance_scale)

    def starts_from_noise(self, severity: float) -> bool:
        """Return whether inpainting has strength 1, where the pipelines of diffusers start from noise alone."""
        return self.inpaints and self.settings(severity)["strength"] == 1.0

    def condition(self, source: SourceLatents, scaled: Scale, generator: torch.Generator) -> torch.Tensor | None:
        """Return the mask and the latents of what lies outside of it; None for a UNet without channels for them."""
        if source.outside is None or source.mask is None:
            return None
        return torch.cat([source.mask, scaled(source.outside.draw(generator))])
