"""Rounds: the shards of each round, and its allocation: the share of edits of each cell, with the evidence for it."""

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

from engine.canonical import indented_json
from engine.errors import SourceError
from engine.plan.plan import Plan
from engine.rounds.decision import decision_path, read_decision
from engine.run.directory import RunDirectory
from engine.runfile.perturber import AllocatedPerturberConfig, PerturberConfig, WantedEdit
from engine.runfile.run import RoundsConfig, RunFile
from engine.sample import EditKind

FOLDER = "rounds"
# The round before it, of validation sources, shows where the classifier is weak.
FIRST_ALLOCATED = 2

Limit = Literal["floor", "cap"]


@dataclass(frozen=True, kw_only=True)
class CellShare:
    """A cell's share of its class's edits, and the evidence. `value` None: the pooled cell of the kind's rare values.

    `weakness` is the posterior mean drop of p(label) by such an edit, from `num_probed` validation edits; `accept_rate`
    the posterior mean share that the verifier accepts, from `num_tried` edits; `gain` their product. Both are shrunk
    towards kind, class and value. `limit`: whether floor or cap set the share.
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
    """How the edits of round `number` are split over cells, and the evidence for it.

    `classifier` is the digest of the classifier under test, from the third round on of the one trained on all earlier
    rounds; `edits_accuracy` its accuracy on the `num_edits` accepted edits of validation sources; `budget` is the
    number of edits of one source.
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
        """Return the content of its file."""
        return indented_json(asdict(self))

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the file; the markers of the round's shards refer to the allocation by it."""
        return hashlib.sha256(self.data).hexdigest()

    def by_kind(self) -> list[tuple[EditKind, float]]:
        """Return the mean share of each kind over the classes, the largest first."""
        totals: dict[EditKind, float] = {}
        for cell in self.cells:
            totals[cell.kind] = totals.get(cell.kind, 0.0) + cell.share
        num_classes = len({cell.class_name for cell in self.cells})
        return sorted(((kind, total / num_classes) for kind, total in totals.items()), key=lambda item: -item[1])

    def apply_to(self, run: RunFile) -> RunFile:
        """Return the run with a perturber that draws its edits by this allocation."""
        wanted: dict[str, list[WantedEdit]] = {}
        for cell in self.cells:
            edit = WantedEdit(kind=cell.kind, value=cell.value, severity=cell.severity, share=cell.share)
            wanted.setdefault(cell.class_name, []).append(edit)
        name, config = perturber_of(run)
        allocated = AllocatedPerturberConfig.model_validate(
            config.model_dump() | {"allocation": self.sha256, "wanted": wanted}
        )
        return run.model_copy(update={"stages": {**run.stages, name: allocated}})


def allocation_path(number: int) -> str:
    """Return the path of a round's allocation in the run directory."""
    return decision_path(FOLDER, number)


def read_allocation(rundir: RunDirectory, number: int) -> Allocation:
    """Read the allocation of a round; RunDirectoryError where it is missing or cannot be read."""
    remedy = "start again with another --out"
    return read_decision(rundir, allocation_path(number), Allocation, name="allocation", remedy=remedy)


def read_allocations(rundir: RunDirectory, config: RoundsConfig) -> dict[str, Allocation]:
    """Return the stored allocations by SHA-256, in the order of their rounds."""
    numbers = [number for number in range(FIRST_ALLOCATED, config.count + 1) if rundir.exists(allocation_path(number))]
    return {found.sha256: found for found in (read_allocation(rundir, number) for number in numbers)}


def perturber_of(run: RunFile) -> tuple[str, PerturberConfig]:
    """Return name and settings of the perturber stage, the one that an allocation applies to."""
    return next((name, config) for name, config in run.stages.items() if isinstance(config, PerturberConfig))


def shards_by_round(plan: Plan, config: RoundsConfig) -> list[list[int]]:
    """Return the shards of each round: of several, those of validation in the first, an equal part of train in others.

    Validation edits are allocated evenly, so that accuracies are comparable between rounds. Raises SourceError where a
    round would have no train shard.
    """
    if config.count == 1:
        return [list(range(plan.num_shards))]
    num_train, num_parts = plan.num_train_shards, config.count - 1
    if num_parts > num_train:
        raise SourceError(
            f"rounds.count is {config.count}: after the first, of validation sources, each needs a shard of train "
            f"sources, and these fill {num_train}: lower rounds.count or shards.sources_per_shard, or raise "
            "data.num_sources"
        )
    ends = [number * num_train // num_parts for number in range(num_parts + 1)]
    return [list(range(num_train, plan.num_shards)), *(list(range(*part)) for part in pairwise(ends))]
