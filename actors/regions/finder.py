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
# A piece of a region is a speck where it is smaller than this share of the largest one; pieces are told apart on a grid
# of so many squares an edge at the most.
LEAST_PIECE, GRID = 0.25, 64
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


def without_specks(region: torch.Tensor) -> torch.Tensor:
    """Return a region (height, width) bool without the pieces that are far smaller than its largest one."""
    squares = [min(edge, GRID) for edge in region.shape]
    coarse = torch.nn.functional.adaptive_max_pool2d(region[None].float(), squares)[0]
    labels = coarse * torch.arange(1, coarse.numel() + 1).reshape(coarse.shape)
    # The largest label of a piece spreads over it.
    while not torch.equal(labels, grown := coarse * _spread(labels)):
        labels = grown
    pieces = torch.nn.functional.interpolate(labels[None, None], size=region.shape, mode="nearest-exact")[0, 0].long()
    sizes = torch.bincount(pieces[region], minlength=coarse.numel() + 1)
    return region & (sizes >= LEAST_PIECE * sizes.max())[pieces]


def _spread(labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.max_pool2d(labels[None], 3, stride=1, padding=1)[0]
