"""The interface of what finds regions by words."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from engine.sample import Json

Pixels = NDArray[np.uint8]

# Of the probability that a pixel belongs to what the word names.
THRESHOLD = 0.5
MARGIN_SHARE = 1 / 32  # of the edge: CLIPSeg works on patches and misses thin parts of the object


class RegionFinder(Protocol):
    """Find what a word names in each picture; `provenance` says by which models."""

    provenance: Mapping[str, Json]

    def __call__(self, pictures: Sequence[Pixels], words: Sequence[str]) -> list[torch.Tensor]:
        """Return for each picture (height, width, 3) and its word the probability of each pixel, (height, width).

        It is below THRESHOLD everywhere where the thing is not in the picture.
        """
        ...


def with_margin(region: torch.Tensor) -> torch.Tensor:
    """Return a region (height, width) bool, grown by MARGIN_SHARE of the longer edge on all sides."""
    margin = max(1, round(max(region.shape) * MARGIN_SHARE))
    grown = torch.nn.functional.max_pool2d(region[None, None].float(), 2 * margin + 1, stride=1, padding=margin)
    return grown[0, 0] > 0
