"""Inpainting: redraw what a mask covers, by a UNet with channels for the mask or by blending latents."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from actors.editor.strategies.img2img import Img2Img
from actors.editor.strategies.latents import SourceLatents
from actors.editor.strategies.strategy import EditBatch, EditText, GuidanceWeight, Scale
from actors.models.untyped import Pipeline
from engine.sample import Edit


@dataclass(frozen=True, kw_only=True)
class Inpaint:
    """Follow Edit.caption where the mask is 1, as `img2img` does in the whole picture."""

    loader: ClassVar[str] = "AutoPipelineForInpainting"
    is_batched: ClassVar[bool] = True
    img2img: Img2Img

    def text(self, edit: Edit) -> EditText:
        """Return the caption."""
        return self.img2img.text(edit)

    def settings(self, severity: float) -> dict[str, float]:
        """Return guidance scale and strength."""
        return self.img2img.settings(severity)

    def supports_severity(self, pipeline: Pipeline) -> bool:
        """Return True: less noise is a milder edit."""
        return True

    def arguments(self, pipeline: Pipeline, batch: EditBatch) -> dict[str, Any]:
        """Return sources, masks, size and negative prompts."""
        return {**self.img2img.arguments(pipeline, batch), **batch.shape, "mask_image": batch.masks}

    def guidance(self, severity: float) -> tuple[GuidanceWeight, ...]:
        """Return the weights of classifier-free guidance."""
        return self.img2img.guidance(severity)

    def starts_from_noise(self, severity: float) -> bool:
        """Return whether the strength is 1, where the pipelines of diffusers start from noise alone."""
        return self.settings(severity)["strength"] == 1.0

    def condition(self, source: SourceLatents, scaled: Scale, generator: torch.Generator) -> torch.Tensor | None:
        """Return the mask and the latents of what lies outside of it; None for a UNet without channels for them."""
        if source.outside is None or source.mask is None:
            return None
        return torch.cat([source.mask, scaled(source.outside.draw(generator))])
