"""Regions by CLIPSeg (Lüddecke and Ecker 2022): one network for picture and word."""

from collections.abc import Mapping, Sequence

import torch

from actors.models.batching import padded_batches, padded_tokens
from actors.models.device import precision
from actors.models.files import resolve_model
from actors.models.loading import load_image_processor, load_tokenizer, load_weights
from actors.regions.finder import Pixels
from engine.runfile.fields import ModelConfig
from engine.sample import Json


class ClipSeg:
    """Find regions with a CLIPSegForImageSegmentation."""

    def __init__(self, model: ModelConfig, device: torch.device, *, batch_size: int, offline: bool) -> None:
        from transformers import CLIPSegForImageSegmentation

        files = resolve_model(model, offline)
        self.config, self.device, self.batch_size = model, device, batch_size
        self.model = load_weights(CLIPSegForImageSegmentation, files, device)
        self.image_processor = load_image_processor(files)
        self.tokenizer = load_tokenizer(files)
        self.provenance: Mapping[str, Json] = files.provenance

    def __call__(self, pictures: Sequence[Pixels], words: Sequence[str]) -> list[torch.Tensor]:
        """Return the probability of each pixel, (height, width), of each picture."""
        found: list[torch.Tensor] = []
        for rows, count in padded_batches(list(zip(pictures, words, strict=True)), self.batch_size):
            found += self._probabilities(rows)[:count]
        return found

    def _probabilities(self, rows: Sequence[tuple[Pixels, str]]) -> list[torch.Tensor]:
        pixels = self.image_processor(images=[picture for picture, _ in rows], return_tensors="pt")["pixel_values"]
        length = self.model.config.text_config.max_position_embeddings
        texts = padded_tokens(self.tokenizer, [word for _, word in rows], length).to(self.device)
        with torch.inference_mode(), precision(self.config, self.device):
            output = self.model(
                pixel_values=pixels.to(self.device, self.model.dtype),
                input_ids=texts["input_ids"],
                attention_mask=texts["attention_mask"],
            )
        # CLIPSeg drops the batch dimension of a single row.
        coarse = output.logits.float().reshape(len(rows), 1, *output.logits.shape[-2:]).cpu().sigmoid()
        return [
            torch.nn.functional.interpolate(each[None], size=picture.shape[:2], mode="bilinear")[0, 0]
            for each, (picture, _) in zip(coarse, rows, strict=True)
        ]
