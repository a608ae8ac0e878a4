"""The batches that fine-tuning sees: real images replayed at random and streamed counterfactuals, decoded in threads.

Their order depends on seed, worker and step alone, so that a resumed run goes on with the very batch that was next.
"""

import copy
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from threading import Lock
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from actors.finetune.augment import randaugmented
from actors.finetune.stream import Counterfactuals, Place, StreamedEdit
from actors.images.codec import UnreadableImageError
from actors.images.preprocessing import Pixels, Preprocessing, same_size
from engine.sample import content_seed
from engine.shards.walk import Image
from engine.sources import Source, SourceItem, UnreadableItemError, stored_image
from engine.sources.decode import is_plain_jpeg
from engine.training.recipe import Share

# What one worker keeps decoded; beyond it images are decoded again each time.
CACHE_BYTES = 2 << 30
# So many batches are under way at once: the threads begin the next while the slowest image of one is decoded.
BATCHES_UNDER_WAY = 2
BATCHES_AHEAD = 2

# An image, its label, and the number of its group.
Drawn = tuple[Pixels, int, int]
Row = Callable[[], Drawn]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One worker's micro-batch: pixels (n, channels, height, width), labels (n,), numbers of their groups (n,).

    The first `num_real` rows are real images. `pairs` (num_pairs, 2) are the rows of a source and of its edit. Pixels
    lie in memory with their channels last, as they are decoded.
    """

    pixels: Pixels
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    num_real: int
    pairs: NDArray[np.int64]


class DecodedImages:
    """The decoded image of each index, cached in memory up to a limit; None where it cannot be read. Thread-safe."""

    def __init__(
        self, load: Callable[[int], bytes], preprocessing: Preprocessing, limit_bytes: int = CACHE_BYTES
    ) -> None:
        self._load = load
        self._preprocessing = preprocessing
        self._room = limit_bytes
        self._kept: dict[int, Pixels | None] = {}
        self._lock = Lock()

    def __call__(self, index: int) -> Pixels | None:
        """Return the pixels (channels, height, width) of one image."""
        if index in self._kept:
            return self._kept[index]
        try:
            # A copy: the view that a crop is would keep the whole of it.
            pixels = self._preprocessing.pixels(self._load(index)).copy(order="K")
        except (UnreadableItemError, UnreadableImageError):
            pixels = None
        size = 0 if pixels is None else pixels.nbytes
        with self._lock:
            if size <= self._room and index not in self._kept:
                self._room -= size
                self._kept[index] = pixels
        return pixels


class RealImages:
    """The real images of one split, as the probe and the shards see them. Thread-safe.

    `groups` (num_items,) are the numbers of their groups, 0 for all where no arm asks for groups.
    """

    def __init__(
        self,
        source: Source,
        items: Sequence[SourceItem],
        preprocessing: Preprocessing,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        self.items = items
        self.groups = np.zeros(len(items), np.int64) if groups is None else groups
        self._turns = np.arange(len(items))
        self.labels = np.array([item.label for item in items], np.int64)
        self.source = source
        self.image = DecodedImages(lambda index: _stored(source, items[index]), preprocessing)
        self._keep_orders()

    def repeated(self, times: NDArray[np.int64]) -> "RealImages":
        """Return the same images, each passed `times` (num_items,) a round."""
        other = copy.copy(self)
        other._turns = np.repeat(np.arange(len(self.items)), times)
        other._keep_orders()
        return other

    def draw(self, position: int, seed: int) -> Drawn:
        """Return image number `position`, its label and group, of an endless walk: each image once a round."""
        index, pixels = self.drawn(position, seed)
        return pixels, int(self.labels[index]), int(self.groups[index])

    def drawn(self, position: int, seed: int) -> tuple[int, Pixels]:
        """Return index and image number `position` of that walk."""
        turn, place = divmod(position, len(self._turns))
        order = self._order(turn, seed)
        # An image that cannot be read gives its turn to the next one.
        for offset in range(len(order)):
            index = int(order[(place + offset) % len(order)])
            if (pixels := self.image(index)) is not None:
                return index, pixels
        raise UnreadableItemError("unreadable_image", "none of the replayed images can be read")

    def _keep_orders(self) -> None:
        # Two: threads that decode one batch may be in two rounds.
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def _shuffled(self, turn: int, seed: int) -> NDArray[np.int64]:
        return np.random.default_rng(content_seed(seed, f"replay/{turn}")).permutation(self._turns)


class DrawnImages(Protocol):
    """Real images as one arm draws them."""

    def draw(self, position: int, seed: int) -> Drawn:
        """Return image number `position`, its label and group: the same each time, in any thread."""
        ...


class TrainingImages:
    """The batches of one arm, real images and counterfactuals in their shares, loaded in threads.

    `is_pinned`: into memory from which a GPU copies by itself.
    """

    def __init__(
        self,
        real: DrawnImages,
        counterfactuals: Counterfactuals | None,
        preprocessing: Preprocessing,
        seed: int,
        *,
        augmented: bool = False,
        num_threads: int = 1,
        is_pinned: bool = False,
    ) -> None:
        self._real = real
        self._counterfactuals = counterfactuals
        self._preprocessing = preprocessing
        self._seed = seed
        self._augmented = augmented
        self._num_threads, self._is_pinned = num_threads, is_pinned
        self._shape: tuple[int, int, int] | None = None

    def batches(self, share: Share, place: Place, first: int) -> Iterator[Batch]:
        """Yield this worker's micro-batches from number `first` (from 0) on, without end."""
        waiting: deque[tuple[Batch, list[Future[None]]]] = deque()
        with ThreadPoolExecutor(self._num_threads, thread_name_prefix="images") as pool:
            for number, rows in enumerate(self._rows(share, place, first), first):
                batch = self._empty(rows, share.at(number))
                parts = range(self._num_threads)
                waiting.append((batch, [pool.submit(self._fill, batch, rows, part) for part in parts]))
                if len(waiting) == BATCHES_UNDER_WAY:
                    batch, filled = waiting.popleft()
                    for future in filled:
                        future.result()
                    yield batch

    def _rows(self, share: Share, place: Place, first: int) -> Iterator[list[Row]]:
        """Yield the rows of each micro-batch, not decoded yet."""
        stream: Iterator[StreamedEdit] = iter(())
        if share.counterfactual and self._counterfactuals is not None:
            stream = self._counterfactuals.stream(share.before(first)[1])
        for number in itertools.count(first):
            part = share.at(number)
            alone = part.real - part.paired
            start = share.before(number)[0] * place.size + place.rank * alone
            rows: list[Row] = [partial(self._draw, position) for position in range(start, start + alone)]
            edits = list(itertools.islice(stream, part.counterfactual))
            paired = edits[: part.paired]
            rows += [partial(self._decode, edit.source, edit.label, edit.source_group) for edit in paired]
            yield rows + [partial(self._decode, edit.image, edit.label, edit.group) for edit in edits]

    def _empty(self, rows: Sequence[Row], share: Share) -> Batch:
        if self._shape is None:
            channels, height, width = rows[0]()[0].shape
            self._shape = (height, width, channels)
        dtype = torch.uint8 if self._preprocessing.keeps_uint8 else torch.float32
        pixels = torch.empty((len(rows), *self._shape), dtype=dtype, pin_memory=self._is_pinned).numpy()
        labels, groups = np.empty((2, len(rows)), np.int64)
        pixels = pixels.transpose(0, 3, 1, 2)
        edits = np.arange(share.real, share.real + share.paired)
        pairs = np.stack([edits - share.paired, edits], axis=1)
        return Batch(pixels=pixels, labels=labels, groups=groups, num_real=share.real, pairs=pairs)

    def _fill(self, batch: Batch, rows: Sequence[Row], part: int) -> None:
        """Decode every so-many-th row into its place in the batch, beginning with number `part`."""
        for row in range(part, len(rows), self._num_threads):
            pixels, batch.labels[row], batch.groups[row] = rows[row]()
            same_size([batch.pixels[row], pixels])
            batch.pixels[row] = pixels

    def _draw(self, position: int) -> Drawn:
        pixels, label, group = self._real.draw(position, self._seed)
        if self._augmented:
            rng = random.Random(content_seed(self._seed, f"randaugment/{position}"))
            pixels = randaugmented(cast(NDArray[np.uint8], pixels), rng)
        return pixels, label, group

    def _decode(self, image: Image, label: int, group: int) -> Drawn:
        return self._preprocessing.pixels(image()), label, group


def _stored(source: Source, item: SourceItem) -> bytes:
    """Return a real image as a shard would hold it; a plain JPEG is kept as it is, and checked where it is decoded."""
    data = source.read(item)
    return data if is_plain_jpeg(data) else stored_image(source, data)
