"""The images that fine-tuning sees: replayed real images at random, and counterfactuals streamed from the run's shards.

Both orders depend on seed, worker and step alone, so that a resumed run goes on with the very batch that was next.
"""

import itertools
import json
import random
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from actors.finetune_model import Preprocessing
from engine.recipe import ShardContents, Share, refuse_leak
from engine.rundir import RunDirectory, shard_path
from engine.sample import Split, content_seed
from engine.sources import Source, SourceItem, UnreadableItemError
from engine.sources.decode import to_jpeg

Pixels = NDArray[np.uint8] | NDArray[np.float32]
Record = dict[str, Any]  # a WebDataset sample: member name to bytes

# What one worker keeps decoded; beyond it images are decoded again each time.
CACHE_BYTES = 2 << 30
SHUFFLED_SAMPLES = 2048
BATCHES_AHEAD = 3


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Hold one worker's images of one step: pixels (n, channels, height, width), labels (n,)."""

    pixels: Pixels
    labels: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Name one worker among all: `rank` of `size`."""

    rank: int
    size: int


class DecodedImages:
    """Give the decoded image of each index, kept in memory while there is room; None where it cannot be read."""

    def __init__(
        self, load: Callable[[int], bytes], preprocessing: Preprocessing, limit_bytes: int = CACHE_BYTES
    ) -> None:
        self._load = load
        self._preprocessing = preprocessing
        self._room = limit_bytes
        self._kept: dict[int, Pixels | None] = {}

    def __call__(self, index: int) -> Pixels | None:
        """Return the pixels (channels, height, width) of one image."""
        if index in self._kept:
            return self._kept[index]
        try:
            pixels = self._preprocessing.pixels(self._load(index))
        except UnreadableItemError:
            pixels = None
        size = 0 if pixels is None else pixels.nbytes
        if size <= self._room:
            self._room -= size
            self._kept[index] = pixels
        return pixels


class RealImages:
    """Read the real images of one split, as the probe and the shards see them."""

    def __init__(self, source: Source, items: Sequence[SourceItem], preprocessing: Preprocessing) -> None:
        self.items = items
        self.labels = np.array([item.label for item in items], np.int64)
        self.image = DecodedImages(lambda index: to_jpeg(source.read(items[index])), preprocessing)
        self._shuffled: tuple[tuple[int, int], NDArray[np.int64]] | None = None

    def draw(self, position: int, seed: int) -> tuple[Pixels, int]:
        """Return image and label number `position` of an endless walk that passes every image once a round."""
        turn, place = divmod(position, len(self.items))
        order = self._order(turn, seed)
        # An image that cannot be read gives its turn to the next one.
        for offset in range(len(order)):
            index = int(order[(place + offset) % len(order)])
            if (pixels := self.image(index)) is not None:
                return pixels, int(self.labels[index])
        raise UnreadableItemError("unreadable_image", "none of the replayed images can be read")

    def _order(self, turn: int, seed: int) -> NDArray[np.int64]:
        if self._shuffled is None or self._shuffled[0] != (turn, seed):
            generator = np.random.default_rng(content_seed(seed, f"replay/{turn}"))
            self._shuffled = (turn, seed), generator.permutation(len(self.items))
        return self._shuffled[1]


class Counterfactuals:
    """Stream the accepted counterfactuals of train sources that one worker trains on, from shards that are done.

    Workers share the shards where there is one for each, else the samples. Each round is shuffled anew.
    """

    def __init__(
        self,
        rundir: RunDirectory,
        contents: Sequence[ShardContents],
        splits: Mapping[str, Split],
        place: Place,
        seed: int,
    ) -> None:
        self._rundir = rundir
        self._splits = splits
        self._place = place
        self._seed = seed
        used = [shard for shard in contents if shard.train]
        self._by_shard = len(used) >= place.size
        mine = used[place.rank :: place.size] if self._by_shard else used
        self._names = [shard_path(shard.shard) for shard in mine]
        total = sum(shard.train for shard in mine)
        self.round_length = total if self._by_shard else len(range(place.rank, total, place.size))

    def stream(self, position: int) -> Iterator[Record]:
        """Yield the records of an endless walk from number `position` on."""
        first, skipped = divmod(position, self.round_length)
        for turn in itertools.count(first):
            yield from itertools.islice(self.round(turn), skipped, None)
            skipped = 0

    def round(self, turn: int) -> Iterator[Record]:
        """Yield every record of this worker once, in the order of round number `turn`."""
        import webdataset as wds

        # The same for all workers, who cut one order into parts where they share the shards.
        order = random.Random(content_seed(self._seed, f"shards/{turn}"))
        names = order.sample(self._names, len(self._names))
        seed = content_seed(self._seed, f"counterfactuals/{turn}/{self._place.rank}")
        stages = [
            wds.SimpleShardList(names),
            self._open,
            wds.tariterators.tar_file_expander,
            wds.tariterators.group_by_keys,
            self._select,
            None if self._by_shard else self._cut,
            wds.shuffle(SHUFFLED_SAMPLES, initial=SHUFFLED_SAMPLES, seed=seed),
        ]
        yield from wds.DataPipeline(*stages)

    def _open(self, shards: Iterator[Record]) -> Iterator[Record]:
        for shard in shards:
            yield {"url": shard["url"], "stream": BytesIO(self._rundir.storage.read(shard["url"]))}

    def _select(self, records: Iterator[Record]) -> Iterator[Record]:
        """Keep what the arm is trained on; the split is checked again on what is read here, shard and key by name."""
        for record in records:
            sample = json.loads(record["json"])
            refuse_leak(record["__url__"], record["__key__"], sample["split"], self._splits.get(sample["source_key"]))
            accepted = sample["role"] == "counterfactual" and sample["verdict"] != "rejected"
            if accepted and sample["split"] == "train":
                yield record

    def _cut(self, records: Iterator[Record]) -> Iterator[Record]:
        return itertools.islice(records, self._place.rank, None, self._place.size)


class TrainingImages:
    """Mix the batches of one arm."""

    def __init__(
        self, real: RealImages, counterfactuals: Counterfactuals | None, preprocessing: Preprocessing, seed: int
    ) -> None:
        self._real = real
        self._counterfactuals = counterfactuals
        self._preprocessing = preprocessing
        self._seed = seed

    def batches(self, share: Share, place: Place, first_step: int) -> Iterator[Batch]:
        """Yield this worker's batches from step `first_step` (0 is the first) on, without end."""
        stream: Iterator[Record] = iter(())
        if share.counterfactual and self._counterfactuals is not None:
            stream = self._counterfactuals.stream(first_step * share.counterfactual)
        for step in itertools.count(first_step):
            start = (step * place.size + place.rank) * share.real
            drawn = [self._real.draw(position, self._seed) for position in range(start, start + share.real)]
            drawn += [self._decode(record) for record in itertools.islice(stream, share.counterfactual)]
            labels = np.array([label for _, label in drawn], np.int64)
            yield Batch(pixels=cast(Pixels, np.stack([image for image, _ in drawn])), labels=labels)

    def _decode(self, record: Record) -> tuple[Pixels, int]:
        return self._preprocessing.pixels(record["jpg"]), int(record["cls"])


def read_validation_edits(
    rundir: RunDirectory, contents: Sequence[ShardContents]
) -> tuple[list[bytes], NDArray[np.int64], list[str]]:
    """Return images, labels and source keys of the accepted counterfactuals of validation sources, in shard order."""
    samples = [
        sample
        for shard in contents
        if shard.validation
        for sample in rundir.read_shard(shard.shard)
        if sample.role == "counterfactual" and sample.split == "validation"
    ]
    labels = np.array([sample.label for sample in samples], np.int64)
    return [sample.image for sample in samples], labels, [sample.source_key for sample in samples]


def ahead(batches: Iterator[Batch]) -> Generator[Batch]:
    """Yield the same batches, the next ones prepared by a thread meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        waiting = deque(pool.submit(next, batches) for _ in range(BATCHES_AHEAD))
        while True:
            batch = waiting.popleft().result()
            waiting.append(pool.submit(next, batches))
            yield batch
