"""Regions by two models: GroundingDINO (Liu et al. 2023) finds boxes by words, SAM (Kirillov et al. 2023) cuts out."""

from collections.abc import Mapping, Sequence

import torch

from actors.models.device import precision
from actors.models.files import resolve_model
from actors.models.loading import load_processor, load_weights
from actors.regions.finder import Pixels
from engine.runfile.fields import ModelConfig
from engine.sample import Json

# Of a box and of its words: the defaults of GroundingDINO's authors.
LEAST_BOX, LEAST_WORDS = 0.35, 0.25


class BoxedSam:
    """Find regions with a GroundingDinoForObjectDetection and a SamModel, picture by picture.

    Pictures differ in their number of boxes; the pixels of all boxes of a picture are its region.
    """

    def __init__(self, box_model: ModelConfig, mask_model: ModelConfig, device: torch.device, *, offline: bool) -> None:
        from transformers import GroundingDinoForObjectDetection, SamModel

        boxes, masks = resolve_model(box_model, offline), resolve_model(mask_model, offline)
        self.box_config, self.mask_config, self.device = box_model, mask_model, device
        self.detector = load_weights(GroundingDinoForObjectDetection, boxes, device)
        self.segmenter = load_weights(SamModel, masks, device)
        self.box_processor, self.mask_processor = load_processor(boxes), load_processor(masks)
        self.provenance: Mapping[str, Json] = {**masks.provenance, "box_model": boxes.provenance}

    def __call__(self, pictures: Sequence[Pixels], words: Sequence[str]) -> list[torch.Tensor]:
        """Return 1 for each pixel of what the word names and 0 for all others, (height, width), of each picture."""
        return [self._region(picture, word) for picture, word in zip(pictures, words, strict=True)]

    def _region(self, picture: Pixels, word: str) -> torch.Tensor:
        boxes = self._boxes(picture, word)
        if not boxes:
            return torch.zeros(picture.shape[:2])
        inputs = self.mask_processor(images=picture, input_boxes=[boxes], return_tensors="pt")
        with torch.inference_mode(), precision(self.mask_config, self.device):
            output = self.segmenter(
                pixel_values=inputs["pixel_values"].to(self.device, self.segmenter.dtype),
                input_boxes=inputs["input_boxes"].to(self.device, self.segmenter.dtype),
                multimask_output=False,
            )
        [masks] = self.mask_processor.post_process_masks(
            output.pred_masks.float().cpu(), inputs["original_sizes"], inputs["reshaped_input_sizes"]
        )
        return torch.as_tensor(masks).reshape(-1, *picture.shape[:2]).any(0).float()

    def _boxes(self, picture: Pixels, word: str) -> list[list[float]]:
        """Return the boxes of what a word names: left, top, right and bottom in pixels."""
        # It was trained on lower-case phrases that end in a full stop.
        inputs = self.box_processor(images=picture, text=f"{word.casefold()}.", return_tensors="pt").to(self.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.detector.dtype)
        with torch.inference_mode(), precision(self.box_config, self.device):
            output = self.detector(**inputs)
        [found] = self.box_processor.post_process_grounded_object_detection(
            output,
            inputs["input_ids"],
            threshold=LEAST_BOX,
            text_threshold=LEAST_WORDS,
            target_sizes=[picture.shape[:2]],
        )
        boxes: list[list[float]] = found["boxes"].float().cpu().tolist()
        return boxes
