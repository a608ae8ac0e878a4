"""The counterfactuals of fine-tuning, streamed from the shards of a run in shuffled order and checked for leaks.

Places of images are shuffled, not images; from a local disk an image is read when it is decoded.
"""

import itertools
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from actors.models.batching import ahead
from engine.run.directory import RunDirectory, shard_path
from engine.sample import Sample, Split, content_seed
from engine.shards.walk import Image, Shard
from engine.training.contents import EditCell, ShardContents, refuse_leak
from engine.training.held_out import is_of_share

SHUFFLED_SAMPLES = 2048


@dataclass(frozen=True, kw_only=True)
class Place:
    """The place of one worker among all: `rank` of `size`."""

    rank: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamedEdit:
    """One counterfactual to train on; `image` and `source` return the encoded images of the edit and its source.

    Both raise RunError, ShardError where the shard has changed since.
    """

    key: str
    label: int
    image: Image
    source: Image


class Counterfactuals:
    """The accepted counterfactuals of train sources that one worker trains on, streamed from finished shards.

    Steered ones are left out. Workers share the shards where there is one for each, else the samples. Each round is
    shuffled anew, and repeats an edit as often as `draws` says of its cell: 0 times, where its phrase is held out.
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
        self._storage = rundir.storage
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

    def stream(self, position: int) -> Iterator[StreamedEdit]:
        """Yield the edits of an endless walk from number `position` on."""
        first, skipped = divmod(position, self.round_length)
        for turn in itertools.count(first):
            yield from itertools.islice(self.round(turn), skipped, None)
            skipped = 0

    def round(self, turn: int) -> Iterator[StreamedEdit]:
        """Yield every edit of this worker once, in the order of round number `turn`."""
        import webdataset as wds

        # The same for all workers, who cut one order into parts where they share the shards.
        order = random.Random(content_seed(self._seed, f"shards/{turn}"))
        names = order.sample(self._names, len(self._names))
        seed = content_seed(self._seed, f"counterfactuals/{turn}/{self._place.rank}")
        edits = self._select(names)
        if not self._by_shard:
            edits = itertools.islice(edits, self._place.rank, None, self._place.size)
        yield from wds.shuffle(SHUFFLED_SAMPLES, initial=SHUFFLED_SAMPLES, seed=seed)(edits)

    def _select(self, names: Sequence[str]) -> Iterator[StreamedEdit]:
        """Yield the edits that are trained on; raise LeakError where a sample is not in its true split."""
        source: Image | None = None
        for name, shard in zip(names, self._shards(names), strict=True):
            for entry in shard.entries():
                sample = json.loads(entry.record)
                refuse_leak(name, entry.key, sample["split"], self._splits.get(sample["source_key"]))
                if sample["role"] == "source":
                    source = entry.image
                accepted = sample["role"] == "counterfactual" and sample["verdict"] != "rejected"
                if (
                    accepted
                    and not sample["edit_steered"]
                    and sample["split"] == "train"
                    and is_of_share(entry.key, self._edit_share)
                ):
                    assert source is not None  # it stands before its edits in the tar
                    edit = StreamedEdit(key=entry.key, label=entry.label, image=entry.image, source=source)
                    cell = (sample["class_name"], sample["edit_kind"], sample["edit_after"])
                    yield from itertools.repeat(edit, self._draws[cell])

    def _shards(self, names: Iterable[str]) -> Iterator[Shard]:
        shards = (Shard(self._storage, name) for name in names)
        # One of an object store is many megabytes in one request: the next comes while this one is trained on.
        return shards if self._storage.is_local else ahead(shards, 1)


def read_validation_edits(rundir: RunDirectory, contents: Sequence[ShardContents]) -> list[tuple[Sample, Image]]:
    """Return the accepted counterfactuals of validation sources, in shard order, each with how to get its image.

    Steered ones are left out, as they are of training.
    """
    walks = (rundir.walk_shard(shard.shard) for shard in contents if shard.validation)
    found = ((entry.sample(), entry.image) for walk in walks for entry in walk)
    return [
        (sample, image)
        for sample, image in found
        if (sample.role, sample.split) == ("counterfactual", "validation")
        if not (sample.edit and sample.edit.steered)
    ]
