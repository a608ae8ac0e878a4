"""The signal `locality`: what changed outside of the region that an edit was to change."""

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from actors.verifier.signals.signal import Scores, Signal
from engine.regions import Mask, decode_regions
from engine.sample import Sample

# (GRID, GRID, 4) in [0, 1]: of each cell the mean red, green and blue, and the standard deviation of its grey values.
Cells: TypeAlias = NDArray[np.float32]
# Cells along each edge: a cell's mean does not see the noise of JPEG, its deviation sees texture.
GRID = 32
# Cells around a region that belong to it, and around a change of the placebo that excuse the edit's.
REACH = 1


class Locality(Signal):
    """Score minus the change outside of an edit's regions that its placebo has not: 0 is none, -1 all there can be.

    The change of a cell is the mean absolute difference to the source over its statistics, less the largest of the
    placebo in the cell and its neighbours; the score is minus its root mean square over the cells outside, by which a
    small thing that appears counts more than as much change spread evenly. Without a placebo all change counts. An
    edit without `Edit.region`, or whose region leaves nothing outside, has the score NaN.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def prepare(self, image: Image.Image) -> Cells:
        """Return the statistics of an image's cells."""
        return cells(image)

    def edit_scores(self, edit: Sample, seen: Cells, source_seen: Cells, placebo_seen: Cells | None) -> Scores:
        """Return the score of an edit beside its placebo; of a placebo beside its source alone."""
        region = edit.edit.region if edit.edit is not None else ""
        outside = np.full((GRID, GRID), bool(region))
        for mask in decode_regions(region) if region else ():
            outside &= _outside(mask)
        if not outside.any():
            return {self._name: math.nan}
        excess = _change(source_seen, seen)
        if placebo_seen is not None:
            excess = np.maximum(0, excess - _spread(_change(source_seen, placebo_seen)))
        # Without a sign of its own: no change is 0.0.
        return {self._name: 0.0 - float(np.sqrt(np.square(excess[outside], dtype=np.float64).mean()))}


def cells(image: Image.Image) -> Cells:
    """Return the statistics of an image in GRID x GRID cells, whatever its size."""
    colours = np.asarray(_reduced(image), np.float32) / 255
    grey = np.asarray(image.convert("L"), np.float32) / 255
    mean, of_squares = (np.asarray(_reduced(Image.fromarray(part))) for part in (grey, grey**2))
    deviation = np.sqrt(np.maximum(0, of_squares - mean**2))
    return np.concatenate((colours, deviation[..., None]), axis=2)


def _reduced(image: Image.Image) -> Image.Image:
    return image.resize((GRID, GRID), Image.Resampling.BOX)


def _change(source: Cells, other: Cells) -> Cells:
    """Return how much each cell differs, (GRID, GRID) in [0, 1]."""
    return np.asarray(np.abs(source - other).mean(2))


def _spread(values: Cells) -> Cells:
    """Return the largest value in each cell and its neighbours up to REACH away."""
    padded = np.pad(values, REACH, mode="edge")
    width = 2 * REACH + 1
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, (width, width)).max((2, 3)))


def _outside(region: Mask) -> NDArray[np.bool_]:
    """Return the cells without a pixel of the region in them or in a neighbour, (GRID, GRID)."""
    share = np.asarray(_reduced(Image.fromarray(region.astype(np.float32))))
    return np.asarray(_spread(share) == 0)
