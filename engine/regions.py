"""The regions of an edit as text: run lengths of a mask for each turn, as `Edit.region` holds them."""

import re

import numpy as np
from numpy.typing import NDArray

# (height, width), True where the image may change.
Mask = NDArray[np.bool_]

_REGION = re.compile(r"([1-9]\d*)x([1-9]\d*):(\d+(?:,\d+)*)", re.ASCII)
# An edge of a picture: a text from elsewhere must not ask for all memory.
MAX_EDGE = 1 << 15
# Between the regions of the turns of a sequence of edits.
JOINT = ";"


def encode_region(mask: Mask) -> str:
    """Return a mask (height, width) as "HEIGHTxWIDTH:RUN,RUN,...": run lengths row by row.

    The runs alternate and begin with that of the pixels outside, which is 0 where the first pixel is inside. They are
    the uncompressed counts of COCO, which goes column by column.
    """
    if mask.ndim != 2 or min(mask.shape) < 1 or max(mask.shape) > MAX_EDGE:
        raise ValueError(f"a mask has the shape {mask.shape}, expected (height, width) of 1 to {MAX_EDGE} pixels each")
    flat = np.concatenate(([False], mask.astype(bool).ravel()))
    borders = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(borders, prepend=0, append=mask.size)
    return f"{mask.shape[0]}x{mask.shape[1]}:{','.join(map(str, runs.tolist()))}"


def decode_region(text: str) -> Mask:
    """Return the mask (height, width) of a region that `encode_region` wrote; raises ValueError for any other text."""
    found = _REGION.fullmatch(text)
    height, width = (int(edge) for edge in found.groups()[:2]) if found else (0, 0)
    if found is None or max(height, width) > MAX_EDGE:
        raise ValueError(
            f"a region is {text[:40]!r}, expected HEIGHTxWIDTH:RUN,RUN,... with edges of 1 to {MAX_EDGE} pixels"
        )
    runs = [int(run) for run in found[3].split(",")]
    if sum(runs) != height * width:
        raise ValueError(
            f"the runs of a region sum to {sum(runs)}, expected {height * width} for its {height} x {width} pixels"
        )
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)


def join_regions(before: str, region: str) -> str:
    """Return the regions of the turns before, "" where there are none, followed by that of another turn."""
    return f"{before}{JOINT}{region}" if before else region


def decode_regions(text: str) -> list[Mask]:
    """Return the mask (height, width) of each turn, in order; raises ValueError as `decode_region` does."""
    return [decode_region(part) for part in text.split(JOINT)]
