"""What fine-tuning is told and what it has done so far: the part of a checkpoint that is JSON."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from engine.runfile.arms import ArmName
from engine.runfile.run import RunFile
from engine.sample import Json
from engine.training.emphasis import EditCell
from engine.training.gate import Score
from engine.training.recipe import ShardContents

# The key by which one checkpoint is better than another.
Rank = Callable[[Score], tuple[bool, float]]
NOT_REPRODUCIBLE = (
    "the first arm trained while shards came in: which of its steps saw which edits depends on when each shard was done"
)


@dataclass(frozen=True, kw_only=True)
class FinetuneTask:
    """Hold what every worker is told.

    `contents` lists the shards that are done, each of them checked for leaks; `draws` is how often an edit of each cell
    is drawn in a round of the arm `reinforced`. With `follow` both are empty: the workers look what is done, and the
    first arm trains meanwhile.
    """

    name: str
    run: RunFile
    rundir: str
    contents: tuple[ShardContents, ...]
    draws: Mapping[EditCell, int]
    arms: tuple[ArmName, ...]
    deepspeed: Mapping[str, Json]
    follow: bool = False

    @property
    def history_path(self) -> str:
        """Return the file of the run directory that shows the lines of history while they come."""
        return f"checkpoints/{self.name}/history.json"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Hold one line of history: the means since the line before, and the validation accuracy after `step` steps.

    `num_shards` were there to draw from, of `of_shards`, where the arm followed the generation.
    """

    step: int
    loss: float
    learning_rate: float
    images_per_second: float
    validation_accuracy: float
    validation_edits_accuracy: float | None
    num_shards: int | None = None
    of_shards: int | None = None


@dataclass(frozen=True, kw_only=True)
class Point:
    """Hold one point of the frontier: the weights `share` of the way from the patient to the last step's."""

    share: float
    validation_accuracy: float
    validation_edits_accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class ArmRecord:
    """Hold what an arm has done so far: a line for each checkpoint, the frontier, and which weights are the best.

    Those are of step `best_step`, or where `best_share` is below 1 so far from the patient to those of the last step.
    """

    history: tuple[Entry, ...] = ()
    frontier: tuple[Point, ...] = ()
    best_step: int = 0
    best_share: float = 1.0
    best: Score | None = None

    @property
    def step(self) -> int:
        """Return the number of steps that are done."""
        return self.history[-1].step if self.history else 0

    def followed(self) -> dict[str, Json]:
        """Return what reinforce.json says of an arm that followed: how many of its steps saw how many shards."""
        starts = (0, *(line.step for line in self.history))
        steps: list[Json] = [
            {"steps": line.step - start, "num_shards": line.num_shards, "of_shards": line.of_shards}
            for line, start in zip(self.history, starts, strict=False)
            if line.num_shards is not None
        ]
        early = max((line.step for line in self.history if line.num_shards is not None), default=0)
        why: dict[str, Json] = {"why": NOT_REPRODUCIBLE} if steps else {}
        return {"reproducible": not steps, **why, "steps": steps, "steps_on_all": self.step - early}

    def add_line(self, entry: Entry) -> "ArmRecord":
        """Return the record with one more line that is no candidate: not all shards were there to score it."""
        return replace(self, history=(*self.history, entry))

    def add(self, entry: Entry, score: Score, rank: Rank) -> "ArmRecord":
        """Return the record with one more line; the score becomes the best where it ranks higher, not where equal."""
        record = replace(self, history=(*self.history, entry))
        if not self._is_better(score, rank):
            return record
        return replace(record, best_step=entry.step, best_share=1.0, best=score)

    def add_point(self, share: float, score: Score, rank: Rank) -> "ArmRecord":
        """Return the record with one more point of the frontier, whose score becomes the best where it ranks higher."""
        point = Point(share=share, validation_accuracy=score.accuracy, validation_edits_accuracy=score.edits_accuracy)
        record = replace(self, frontier=(*self.frontier, point))
        if not self._is_better(score, rank):
            return record
        return replace(record, best_step=self.step, best_share=share, best=score)

    def _is_better(self, score: Score, rank: Rank) -> bool:
        return self.best is None or rank(score) > rank(self.best)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Hold what all arms have done. The last arm is in work; those before it are finished and their models saved."""

    patient: Score | None = None
    arms: Mapping[str, ArmRecord] = field(default_factory=dict)

    def with_arm(self, name: str, record: ArmRecord) -> "Progress":
        """Return the progress with the new record of an arm."""
        return replace(self, arms={**self.arms, name: record})

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Progress":
        """Read what dataclasses.asdict gave."""
        arms = {
            name: ArmRecord(
                history=tuple(Entry(**entry) for entry in arm["history"]),
                frontier=tuple(Point(**point) for point in arm["frontier"]),
                best_step=arm["best_step"],
                best_share=arm["best_share"],
                best=_score(arm["best"]),
            )
            for name, arm in record["arms"].items()
        }
        return cls(patient=_score(record["patient"]), arms=arms)


def _score(record: Mapping[str, str] | None) -> Score | None:
    return None if record is None else Score(**record)
