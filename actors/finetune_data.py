"""The images that fine-tuning sees: replayed real images at random, and counterfactuals streamed from the run's shards.

Both orders depend on seed, worker and step alone, so that a resumed run goes on with the very batch that was next.
"""

import copy
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
from actors.randaugment import randaugmented
from engine.emphasis import EditCell
from engine.held_out import is_of_share
from engine.recipe import ShardContents, Share, refuse_leak
from engine.rundir import RunDirectory, shard_path
from engine.sample import Sample, Split, content_seed
from engine.sources import Source, SourceItem, UnreadableItemError
from engine.sources.decode import to_jpeg

Pixels = NDArray[np.uint8] | NDArray[np.float32]
Record = dict[str, Any]  # a WebDataset sample: member name to bytes

# What one worker keeps decoded; beyond it images are decoded again each time.
CACHE_BYTES = 2 << 30
SHUFFLED_SAMPLES = 2048
SOURCE_IMAGE = "source.jpg"
BATCHES_AHEAD = 3


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Hold one worker's images of one micro-batch: pixels (n, channels, height, width), labels (n,).

    The first `num_real` rows are real images. `pairs` (num_pairs, 2) are the rows of a source and of its edit.
    """

    pixels: Pixels
    labels: NDArray[np.int64]
    num_real: int
    pairs: NDArray[np.int64]


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
        self._turns = np.arange(len(items))
        self.labels = np.array([item.label for item in items], np.int64)
        self.image = DecodedImages(lambda index: to_jpeg(source.read(items[index])), preprocessing)
        self._shuffled: tuple[tuple[int, int], NDArray[np.int64]] | None = None

    def repeated(self, times: NDArray[np.int64]) -> "RealImages":
        """Return the same images, each passed `times` (num_items,) a round."""
        other = copy.copy(self)
        other._turns = np.repeat(np.arange(len(self.items)), times)
        other._shuffled = None
        return other

    def draw(self, position: int, seed: int) -> tuple[Pixels, int]:
        """Return image and label number `position` of an endless walk that passes every image once a round."""
        turn, place = divmod(position, len(self._turns))
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
            self._shuffled = (turn, seed), generator.permutation(self._turns)
        return self._shuffled[1]


class Counterfactuals:
    """Stream the accepted counterfactuals of train sources that one worker trains on, from shards that are done.

    Workers share the shards where there is one for each, else the samples. Each round is shuffled anew, and has each
    edit as often as `draws` says of its cell: never, where its phrase is held out. A record has its source's image as
    SOURCE_IMAGE.
    """

    def __init__(
        self,
        rundir: RunDirectory,
        contents: Sequence[ShardContents],
        draws: Mapping[EditCell, int],
        splits: Mapping[str, Split],
        place: Place,
        seed: int,
        edit_share: float = 1.0,
    ) -> None:
        self._rundir = rundir
        self._edit_share = edit_share
        self._draws = draws
        self._splits = splits
        self._place = place
        self._seed = seed
        used = [shard for shard in contents if shard.train]
        self._by_shard = len(used) >= place.size
        mine = used[place.rank :: place.size] if self._by_shard else used
        self._names = [shard_path(shard.shard) for shard in mine]
        total = sum(count * draws[cell] for shard in mine for cell, count in shard.cells.items())
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
        source: Record = {}
        for record in records:
            sample = json.loads(record["json"])
            refuse_leak(record["__url__"], record["__key__"], sample["split"], self._splits.get(sample["source_key"]))
            if sample["role"] == "source":
                source = record
            accepted = sample["role"] == "counterfactual" and sample["verdict"] != "rejected"
            if accepted and sample["split"] == "train" and is_of_share(record["__key__"], self._edit_share):
                # A source stands before its edits in the tar.
                record[SOURCE_IMAGE] = source["jpg"]
                cell = (sample["class_name"], sample["edit_kind"], sample["edit_after"])
                yield from itertools.repeat(record, self._draws[cell])

    def _cut(self, records: Iterator[Record]) -> Iterator[Record]:
        return itertools.islice(records, self._place.rank, None, self._place.size)


class TrainingImages:
    """Mix the batches of one arm."""

    def __init__(
        self,
        real: RealImages,
        counterfactuals: Counterfactuals | None,
        preprocessing: Preprocessing,
        seed: int,
        *,
        augmented: bool = False,
    ) -> None:
        self._real = real
        self._counterfactuals = counterfactuals
        self._preprocessing = preprocessing
        self._seed = seed
        self._augmented = augmented

    def batches(self, share: Share, place: Place, first: int) -> Iterator[Batch]:
        """Yield this worker's micro-batches from number `first` (from 0) on, without end."""
        stream: Iterator[Record] = iter(())
        if share.counterfactual and self._counterfactuals is not None:
            stream = self._counterfactuals.stream(first * share.counterfactual)
        alone = share.real - share.paired
        for number in itertools.count(first):
            start = (number * place.size + place.rank) * alone
            drawn = [self._draw(position) for position in range(start, start + alone)]
            records = list(itertools.islice(stream, share.counterfactual))
            drawn += [self._decode(record, SOURCE_IMAGE) for record in records[: share.paired]]
            drawn += [self._decode(record, "jpg") for record in records]
            edits = np.arange(share.real, share.real + share.paired)
            yield Batch(
                pixels=cast(Pixels, np.stack([image for image, _ in drawn])),
                labels=np.array([label for _, label in drawn], np.int64),
                num_real=share.real,
                pairs=np.stack([edits - share.paired, edits], axis=1),
            )

    def _draw(self, position: int) -> tuple[Pixels, int]:
        pixels, label = self._real.draw(position, self._seed)
        if self._augmented:
            rng = random.Random(content_seed(self._seed, f"randaugment/{position}"))
            pixels = randaugmented(cast(NDArray[np.uint8], pixels), rng)
        return pixels, label

    def _decode(self, record: Record, image: str) -> tuple[Pixels, int]:
        return self._preprocessing.pixels(record[image]), int(record["cls"])


def read_validation_edits(rundir: RunDirectory, contents: Sequence[ShardContents]) -> list[Sample]:
    """Return the accepted counterfactuals of validation sources, in shard order."""
    return [
        sample
        for shard in contents
        if shard.validation
        for sample in rundir.read_shard(shard.shard)
        if sample.role == "counterfactual" and sample.split == "validation"
    ]


def ahead(batches: Iterator[Batch]) -> Generator[Batch]:
    """Yield the same batches, the next ones prepared by a thread meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        waiting = deque(pool.submit(next, batches) for _ in range(BATCHES_AHEAD))
        while True:
            batch = waiting.popleft().result()
            waiting.append(pool.submit(next, batches))
            yield batch
