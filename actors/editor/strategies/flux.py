"""FLUX.1 Kontext and FLUX.2 klein: follow an instruction, the source's tokens beside those of the picture."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from actors.editor.strategies.strategy import EditBatch, EditText, scaled_guidance
from actors.models.untyped import Pipeline
from engine.sample import Edit

KONTEXT, KLEIN = "FluxKontextPipeline", "Flux2KleinPipeline"


@dataclass(frozen=True, kw_only=True)
class Flux:
    """Follow Edit.instruction; severity scales the guidance. `loader` is KONTEXT or KLEIN."""

    loader: str
    guidance_scale: float

    @property
    def is_batched(self) -> bool:
        """Return False for klein, whose pipeline reads a list of images as several references for one edit."""
        return self.loader == KONTEXT

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
        """Return sources, for klein as a PIL image, and the size, which keeps Kontext from choosing its own."""
        if self.loader == KONTEXT:
            area = batch.images.shape[-2] * batch.images.shape[-1]
            return {"image": batch.images, **batch.shape, "max_area": area, "_auto_resize": False}
        (image,) = batch.images
        pixels = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        return {"image": Image.fromarray(pixels), **batch.shape}
