"""How a classifier in training is scored: which validation images it gets right, over all workers."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.finetune.batches import DecodedImages
from actors.finetune.stream import Place
from actors.images.preprocessing import same_size

# Beside right and wrong: an image that cannot be read, which counts for nobody.
MARKS = "01-"
UNREADABLE = 2
# Pixels (n, channels, height, width) to logits (n, num_classes), on the worker's device.
Answer = Callable[[NDArray[Any]], Tensor]


@dataclass(frozen=True, kw_only=True)
class ValidationImages:
    """Images and labels (n,) that a classifier is scored on; each worker decodes its own part, in threads."""

    images: DecodedImages
    labels: NDArray[np.int64]
    num_threads: int = 1


# Which images a classifier gets right, as `mark_images` says it.
Mark = Callable[[ValidationImages], str]


@torch.no_grad()
def mark_images(
    answer: Answer, images: ValidationImages, place: Place, *, batch_size: int, device: torch.device
) -> str:
    """Return which images the classifier gets right: "1", "0", or "-" where an image cannot be read.

    All workers must call it: each answers for its own part, `batch_size` images at a time.
    """
    marks = torch.zeros(len(images.labels), dtype=torch.int32, device=device)
    mine = np.arange(place.rank, len(images.labels), place.size)
    # Under ZeRO-3 each forward is a collective: all workers make the same number.
    with ThreadPoolExecutor(images.num_threads, thread_name_prefix="images") as pool:
        for start in range(0, ceil(len(images.labels) / place.size / batch_size) * batch_size, batch_size):
            _mark(answer, images, mine[start : start + batch_size], marks, pool)
    torch.distributed.all_reduce(marks)
    return "".join(MARKS[mark] for mark in marks.tolist())


def _mark(
    answer: Answer, images: ValidationImages, indices: NDArray[np.int64], marks: Tensor, pool: ThreadPoolExecutor
) -> None:
    decoded = dict(zip(indices.tolist(), pool.map(images.images, indices.tolist()), strict=True))
    readable = [index for index, pixels in decoded.items() if pixels is not None]
    marks[[index for index, pixels in decoded.items() if pixels is None]] = UNREADABLE
    rows = [pixels for pixels in decoded.values() if pixels is not None]
    if not rows:  # this worker has none left, but takes part in the collective
        every = (images.images(index) for index in range(len(images.labels)))
        rows = list(itertools.islice((row for row in every if row is not None), 1))
        if not rows:
            return
    found = answer(np.stack(same_size(rows))).argmax(-1)[: len(readable)].cpu().numpy()
    right = found == images.labels[readable]
    marks[readable] = torch.from_numpy(right.astype(np.int32)).to(marks.device)
