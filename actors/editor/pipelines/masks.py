"""Masks for inpainting: CLIPSeg finds the class in the picture by its name."""

from collections.abc import Sequence
from typing import Literal

import torch

from actors.images.frame import Frame
from actors.models.batching import padded_batches, padded_tokens
from actors.models.device import precision
from actors.models.files import resolve_model
from actors.models.loading import load_image_processor, load_tokenizer, load_weights
from engine.runfile.fields import ModelConfig
from engine.sample import Json

THRESHOLD = 0.5  # of the probability that a pixel belongs to the object
MARGIN_SHARE = 1 / 32  # of the edge: CLIPSeg works on patches and misses thin parts of the object

Region = Literal["background", "object"]


class InpaintMasks:
    """Mask the object of a class, or all but it, with CLIPSeg (Lüddecke and Ecker 2022)."""

    def __init__(
        self, model: ModelConfig, region: Region, device: torch.device, *, batch_size: int, offline: bool
    ) -> None:
        from transformers import CLIPSegForImageSegmentation

        files = resolve_model(model, offline)
        self.config, self.region, self.device, self.batch_size = model, region, device, batch_size
        self.model = load_weights(CLIPSegForImageSegmentation, files, device)
        self.image_processor = load_image_processor(files)
        self.tokenizer = load_tokenizer(files)
        self.provenance: dict[str, Json] = files.provenance

    def __call__(self, frames: Sequence[Frame], class_names: Sequence[str]) -> list[torch.Tensor]:
        """Return the mask of each frame, (1, size, size) in {0, 1}: 1 where it is redrawn.

        The object is masked with a small margin around it.
        """
        rows = [(frame, name.replace("_", " ")) for frame, name in zip(frames, class_names, strict=True)]
        masks: list[torch.Tensor] = []
        for batch, count in padded_batches(rows, self.batch_size):
            found = self._objects(batch)[:count]
            masks += 1 - found if self.region == "background" else found
        return masks

    def problem(self, mask: torch.Tensor, class_name: str) -> str | None:
        """Return why a mask cannot be used: it covers nothing or everything. None if it can."""
        share = float(mask.mean())
        if 0 < share < 1:
            return None
        is_everywhere = (share == 0) == (self.region == "background")
        where = "in the whole picture" if is_everywhere else "nowhere in the picture"
        left = "redraw" if share == 0 else "keep"
        return f"the mask model sees {class_name!r} {where}: nothing is left to {left}"

    def _objects(self, rows: list[tuple[Frame, str]]) -> torch.Tensor:
        """Return masks (num_rows, 1, size, size) in {0, 1}: 1 where the object is."""
        size = rows[0][0].pixels.shape[0]
        pixels = self.image_processor(images=[frame.pixels for frame, _ in rows], return_tensors="pt")["pixel_values"]
        length = self.model.config.text_config.max_position_embeddings
        texts = padded_tokens(self.tokenizer, [word for _, word in rows], length).to(self.device)
        with torch.inference_mode(), precision(self.config, self.device):
            output = self.model(
                pixel_values=pixels.to(self.device, self.model.dtype),
                input_ids=texts["input_ids"],
                attention_mask=texts["attention_mask"],
            )
        # CLIPSeg drops the batch dimension of a single row.
        logits = output.logits.float().reshape(len(rows), 1, *output.logits.shape[-2:]).cpu()
        probability = torch.nn.functional.interpolate(logits.sigmoid(), size=(size, size), mode="bilinear")
        margin = max(1, round(size * MARGIN_SHARE))
        found = (probability > THRESHOLD).float()
        return torch.nn.functional.max_pool2d(found, 2 * margin + 1, stride=1, padding=margin)
