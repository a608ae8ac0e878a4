"""Rounds: which shards each one makes, and the allocation that says where it spends its edits, and why."""

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, cast

from engine.canonical import indented_json
from engine.errors import RunDirectoryError, SourceError
from engine.plan.plan import Plan
from engine.run.directory import RunDirectory
from engine.runfile.perturber import PerturberConfig, SteeredPerturberConfig, WantedEdit
from engine.runfile.rounds import RoundsConfig
from engine.runfile.run import RunFile
from engine.sample import EditKind

FOLDER = "rounds"

Limit = Literal["floor", "cap"]


@dataclass(frozen=True, kw_only=True)
class CellShare:
    """Hold the share of its class's edits that a cell gets, and why. Value None: any that is no cell of its own.

    `weakness` is the share of the classifier's confidence in the true class that such an edit is believed to take, by
    `num_probed` validation edits; `accept_rate` is what the verifier lets pass, by `num_tried` edits; `gain` is their
    product. Both are shrunk towards class and kind. `limit` says what moved the share away from what they promise.
    """

    class_name: str
    kind: EditKind
    value: str | None
    severity: float
    share: float
    weakness: float
    num_probed: int
    accept_rate: float
    num_tried: int
    gain: float
    limit: Limit | None


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Hold how round `number` spends its edits, and what was known then.

    `classifier` is the digest of the one trained on all rounds before, `edits_accuracy` its accuracy on the `num_edits`
    accepted edits of validation sources; `budget` is the number of edits of one source.
    """

    number: int
    plan: str
    classifier: str
    edits_accuracy: float | None
    num_edits: int
    budget: int
    floor: float
    cap: float
    cells: tuple[CellShare, ...]

    @cached_property
    def data(self) -> bytes:
        """Return the bytes of its file."""
        return indented_json(asdict(self))

    @property
    def sha256(self) -> str:
        """Return what the markers of the round's shards name it by."""
        return hashlib.sha256(self.data).hexdigest()

    def by_kind(self) -> list[tuple[EditKind, float]]:
        """Return the mean share of each kind over the classes, the largest first."""
        totals: dict[EditKind, float] = {}
        for cell in self.cells:
            totals[cell.kind] = totals.get(cell.kind, 0.0) + cell.share
        num_classes = len({cell.class_name for cell in self.cells})
        return sorted(((kind, total / num_classes) for kind, total in totals.items()), key=lambda item: -item[1])

    def steer(self, run: RunFile) -> RunFile:
        """Return the run with its perturber told to spend by this allocation."""
        wanted: dict[str, list[WantedEdit]] = {}
        for cell in self.cells:
            edit = WantedEdit(kind=cell.kind, value=cell.value, severity=cell.severity, share=cell.share)
            wanted.setdefault(cell.class_name, []).append(edit)
        name, config = perturber_of(run)
        steered = SteeredPerturberConfig.model_validate(
            config.model_dump() | {"allocation": self.sha256, "wanted": wanted}
        )
        return run.model_copy(update={"stages": {**run.stages, name: steered}})


def allocation_path(number: int) -> str:
    """Return where the allocation of a round lies."""
    return f"{FOLDER}/{number:03d}.json"


def read_allocation(rundir: RunDirectory, number: int) -> Allocation:
    """Read the allocation of a round; RunDirectoryError where it is not there or cannot be read."""
    path = allocation_path(number)
    content = cast(dict[str, Any], rundir.read_json(path))
    try:
        return Allocation(**content | {"cells": tuple(CellShare(**cell) for cell in content["cells"])})
    except (KeyError, TypeError) as error:
        raise RunDirectoryError(
            f"{rundir.storage.name(path)} is no allocation that this version wrote ({error!r}): go on with the version "
            "that did, or start again with another --out"
        ) from error


def read_allocations(rundir: RunDirectory, config: RoundsConfig) -> dict[str, Allocation]:
    """Return the allocations that are there, by hash, in the order of their rounds."""
    numbers = [number for number in range(2, config.count + 1) if rundir.exists(allocation_path(number))]
    return {found.sha256: found for found in (read_allocation(rundir, number) for number in numbers)}


def perturber_of(run: RunFile) -> tuple[str, PerturberConfig]:
    """Return name and settings of the stage that a run with rounds steers."""
    return next((name, config) for name, config in run.stages.items() if isinstance(config, PerturberConfig))


def shards_by_round(plan: Plan, config: RoundsConfig) -> list[list[int]]:
    """Return the shards of each round: train shards in equal parts, the validation shards all in the first.

    Validation edits are made once and evenly: they are the yardstick of every round. Raises SourceError where a round
    would have no train shard.
    """
    num_train = plan.num_train_shards
    if config.count > num_train:
        raise SourceError(
            f"rounds.count is {config.count}, the train sources fill {num_train} shards: lower rounds.count or "
            "shards.sources_per_shard, or raise data.num_sources"
        )
    ends = [number * num_train // config.count for number in range(config.count + 1)]
    rounds = [list(range(start, stop)) for start, stop in pairwise(ends)]
    rounds[0] += range(num_train, plan.num_shards)
    return rounds
