"""InstructPix2Pix: follow an instruction from noise, the UNet conditioned on the source (Brooks et al. 2023)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from actors.editor.strategies.latents import SourceLatents
from actors.editor.strategies.strategy import (
    EditBatch,
    EditText,
    GuidanceWeight,
    Scale,
    negative_prompts,
    scaled_guidance,
    text_guidance,
)
from actors.models.batching import padded_tokens
from actors.models.untyped import Pipeline
from engine.sample import PLACEBO_INSTRUCTION, Edit


@dataclass(frozen=True, kw_only=True)
class InstructPix2Pix:
    """Follow Edit.instruction; severity scales the text guidance.

    Without guidance severity moves the text embedding from the placebo's instruction to the edit's, which needs a
    single text encoder. `scales_source`: the UNet takes the source's latents scaled, as CosXL Edit's does.
    """

    is_batched: ClassVar[bool] = True
    loader: str
    guidance_scale: float
    image_guidance_scale: float
    negative_prompt: str | None
    scales_source: bool

    def text(self, edit: Edit) -> EditText:
        """Return the instruction."""
        if edit.severity < 1 and self.guidance_scale == 1:
            return EditText(text=edit.instruction, start=PLACEBO_INSTRUCTION, share=edit.severity)
        return EditText(text=edit.instruction)

    def settings(self, severity: float) -> dict[str, float]:
        """Return both guidance scales."""
        return {
            "guidance_scale": scaled_guidance(self.guidance_scale, severity),
            "image_guidance_scale": self.image_guidance_scale,
        }

    def supports_severity(self, pipeline: Pipeline) -> bool:
        """Return whether there is guidance to scale, or one embedding to move."""
        return self.guidance_scale > 1 or getattr(pipeline, "text_encoder_2", None) is None

    def arguments(self, pipeline: Pipeline, batch: EditBatch) -> dict[str, Any]:
        """Return the sources, and negative prompts or moved embeddings."""
        start = batch.texts[0].start
        if start is None:
            return {"image": batch.images, **negative_prompts(self.negative_prompt, len(batch.texts))}
        before, after = _embedded(pipeline, [start]), _embedded(pipeline, batch.prompts)
        moved = torch.lerp(before.expand_as(after), after, batch.severity)
        return {"image": batch.images, "prompt": None, "prompt_embeds": moved}

    def guidance(self, severity: float) -> tuple[GuidanceWeight, ...]:
        """Return the weights of guidance by text and source (Brooks et al. 2023, eq. 3)."""
        scale = scaled_guidance(self.guidance_scale, severity)
        if scale <= 1:
            return text_guidance(scale)
        return (
            GuidanceWeight(weight=scale),
            GuidanceWeight(weight=self.image_guidance_scale - scale, has_text=False),
            GuidanceWeight(weight=1 - self.image_guidance_scale, has_text=False, has_source=False),
        )

    def starts_from_noise(self, severity: float) -> bool:
        """Return True: the source comes in as a condition."""
        return True

    def condition(self, source: SourceLatents, scaled: Scale, generator: torch.Generator) -> torch.Tensor:
        """Return the mean latents of the source."""
        return scaled(source.picture.mean) if self.scales_source else source.picture.mean


def _embedded(pipeline: Pipeline, texts: list[str]) -> torch.Tensor:
    tokens = padded_tokens(pipeline.tokenizer, texts, pipeline.tokenizer.model_max_length)
    return torch.as_tensor(pipeline.text_encoder(tokens.input_ids.to(pipeline.device))[0])
