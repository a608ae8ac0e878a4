"""FLUX Kontext, FLUX.2, Qwen-Image-Edit: follow an instruction, the source's tokens beside those of the picture."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from actors.editor.strategies.strategy import EditBatch, EditText, scaled_guidance, true_guidance
from actors.models.untyped import Pipeline
from engine.sample import Edit


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Follow Edit.instruction; severity scales the guidance."""

    loader: str
    is_batched: bool
    guidance_scale: float
    negative_prompt: str | None
    has_true_guidance: bool

    def text(self, edit: Edit) -> EditText:
        """Return the instruction."""
        return EditText(text=edit.instruction)

    def settings(self, severity: float) -> dict[str, float]:
        """Return the guidance scale."""
        return {"guidance_scale": scaled_guidance(self.guidance_scale, severity)}

    def supports_severity(self, pipeline: Pipeline) -> bool:
        """Return whether there is guidance to scale."""
        return self.guidance_scale > 1

    def arguments(self, pipeline: Pipeline, batch: EditBatch) -> dict[str, Any]:
        """Return sources, one as a PIL image where they are not batched, and true guidance where there is such."""
        if self.is_batched:
            return {"image": batch.images}
        (image,) = batch.images
        pixels = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        scale = self.settings(batch.severity)["guidance_scale"]
        guidance = true_guidance(scale, self.negative_prompt, len(batch.texts)) if self.has_true_guidance else {}
        return {"image": Image.fromarray(pixels), **guidance}
