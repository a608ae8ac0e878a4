"""The finder of regions of a stage's settings."""

import torch

from actors.regions.finder import RegionFinder
from engine.runfile.fields import ModelConfig


def make_finder(
    mask_model: ModelConfig,
    box_model: ModelConfig | None,
    device: torch.device,
    *,
    batch_size: int,
    offline: bool,
) -> RegionFinder:
    """Return a CLIPSeg, or, with a model that finds boxes, a SAM that cuts out what is in them."""
    if box_model is None:
        from actors.regions.clipseg import ClipSeg

        return ClipSeg(mask_model, device, batch_size=batch_size, offline=offline)
    from actors.regions.boxes import BoxedSam

    return BoxedSam(box_model, mask_model, device, offline=offline)
