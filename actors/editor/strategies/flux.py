"""FLUX.1 Kontext and FLUX.2 klein: follow an instruction, the source's tokens beside those of the picture."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from actors.editor.strategies.strategy import EditBatch, EditText, scaled_guidance
from actors.models.untyped import Pipeline
from engine.sample import Edit


@dataclass(frozen=True, kw_only=True)
class Kontext:
    """Follow Edit.instruction with FLUX.1 Kontext; severity scales the guidance."""

    loader: ClassVar[str] = "FluxKontextPipeline"
    is_batched: ClassVar[bool] = True
    guidance_scale: float

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
        """Return the sources, and the size that keeps the pipeline from choosing its own."""
        area = batch.images.shape[-2] * batch.images.shape[-1]
        return {"image": batch.images, **batch.shape, "max_area": area, "_auto_resize": False}


@dataclass(frozen=True, kw_only=True)
class Klein:
    """Follow Edit.instruction with FLUX.2 klein; severity scales the guidance.

    Its pipeline reads a list of images as several references for one edit, so a call takes one edit.
    """

    loader: ClassVar[str] = "Flux2KleinPipeline"
    is_batched: ClassVar[bool] = False
    guidance_scale: float

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
        """Return the source of the only edit as a PIL image, and its size."""
        from PIL import Image

        (image,) = batch.images
        pixels = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        return {"image": Image.fromarray(pixels), **batch.shape}
