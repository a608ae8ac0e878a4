"""The counterfactuals of fine-tuning, streamed from the shards of a run in shuffled order and checked for leaks.

Places of images are shuffled, not images; from a local disk an image is read when it is decoded.
"""

import itertools
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from actors.models.batching import ahead
from engine.run.directory import RunDirectory, shard_path
from engine.sample import Sample, Split, content_seed
from engine.shards.record import ATTRIBUTE
from engine.shards.walk import Entry, Image, Shard
from engine.training.contents import EditCell, ShardContents, refuse_leak
from engine.training.groups import Groups
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

    `group` and `source_group` are the numbers of their groups, 0 where no arm asks for them. Both images raise
    RunError, ShardError where the shard has changed since.
    """

    key: str
    label: int
    image: Image
    source: Image
    group: int = 0
    source_group: int = 0


class Counterfactuals:
    """The accepted counterfactuals of train sources that one worker trains on, streamed from finished shards.

    Steered ones are left out. Workers share the shards where there is one for each, else the samples. Each round is
    shuffled anew, and repeats an edit as often as `draws` says of its cell: 0 times, where its phrase is held out. In
    the place of a share `placebos` of them comes the placebo of their source. `groups` numbers their groups.
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
        placebos: float = 0.0,
        groups: Groups | None = None,
    ) -> None:
        self._placebos, self._groups = placebos, groups
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
        edits = self._select(names, turn)
        if not self._by_shard:
            edits = itertools.islice(edits, self._place.rank, None, self._place.size)
        yield from wds.shuffle(SHUFFLED_SAMPLES, initial=SHUFFLED_SAMPLES, seed=seed)(edits)

    def _select(self, names: Sequence[str], turn: int) -> Iterator[StreamedEdit]:
        """Yield the edits that are trained on; raise LeakError where a sample is not in its true split."""
        source: Image | None = None
        placebos: dict[tuple[str, int], Image] = {}
        rng = random.Random(content_seed(self._seed, f"placebos/{turn}"))
        for name, shard in zip(names, self._shards(names), strict=True):
            for entry in shard.entries():
                sample = json.loads(entry.record)
                refuse_leak(name, entry.key, sample["split"], self._splits.get(sample["source_key"]))
                # A placebo may come without an edit, whose turn is 0.
                control = sample["edit_strategy"], sample["edit_turn"] or 1
                if sample["role"] == "source":
                    source, placebos = entry.image, {}
                elif sample["role"] == "placebo":
                    placebos[control] = entry.image
                accepted = sample["role"] == "counterfactual" and sample["verdict"] != "rejected"
                if (
                    accepted
                    and not sample["edit_steered"]
                    and sample["split"] == "train"
                    and is_of_share(entry.key, self._edit_share)
                ):
                    assert source is not None  # it stands before its edits in the tar
                    times = self._draws[sample["class_name"], sample["edit_kind"], sample["edit_after"]]
                    edit = self._edit(entry, sample, source) if times else None
                    placebo = placebos.get(control)
                    for _ in range(times):
                        assert edit is not None
                        if self._placebos and rng.random() < self._placebos and placebo is not None:
                            yield replace(edit, image=placebo, group=edit.source_group)
                        else:
                            yield edit

    def _edit(self, entry: Entry, sample: Mapping[str, Any], source: Image) -> StreamedEdit:
        edit = StreamedEdit(key=entry.key, label=entry.label, image=entry.image, source=source)
        if self._groups is None:
            return edit
        attributes = {name: sample.get(f"{ATTRIBUTE}{name}", "") for name in self._groups.attributes}
        of_source = self._groups.of_real(sample["class_name"], attributes)
        group = self._groups.of_edit(of_source, sample["edit_kind"], sample["edit_after"])
        return replace(edit, group=self._groups.number(group), source_group=self._groups.number(of_source))

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
