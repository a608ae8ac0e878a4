"""The control of an edit that changes one region: a box as large in another place, drawn at random."""

from collections.abc import Sequence

import numpy as np
import torch

NUM_DRAWS = 64


def control_box(region: torch.Tensor, others: Sequence[torch.Tensor], seed: int) -> torch.Tensor:
    """Return a box as large as the box around a region, in another place, (height, width) bool.

    Of NUM_DRAWS places it is the one that covers the fewest pixels of the region and of `others`, such as the main
    object: what inpainting does by itself is seen without the change. All are (height, width) bool; the region is not
    empty.
    """
    rows, columns = (torch.nonzero(region.any(axis)).flatten() for axis in (1, 0))
    height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
    weights = region.float() + sum((other.float() for other in others), torch.zeros_like(region, dtype=torch.float32))
    rng = np.random.default_rng(seed)
    tops = rng.integers(0, region.shape[0] - height + 1, NUM_DRAWS)
    lefts = rng.integers(0, region.shape[1] - width + 1, NUM_DRAWS)
    covered = [
        float(weights[top : top + height, left : left + width].sum()) for top, left in zip(tops, lefts, strict=True)
    ]
    best = int(np.argmin(covered))
    box = torch.zeros_like(region, dtype=torch.bool)
    box[tops[best] : tops[best] + height, lefts[best] : lefts[best] + width] = True
    return box
