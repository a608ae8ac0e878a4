"""The progress of a training: lines of history, the best weights of each arm. The part of a checkpoint that is JSON."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace

from pydantic import TypeAdapter

from engine.runfile.arms import BASE
from engine.runfile.reinforce import ReinforceConfig
from engine.sample import Json
from engine.training.gate import Score
from engine.training.linear_probe import LinearProbe

# The key by which one checkpoint is better than another.
Rank = Callable[[Score], tuple[bool, float]]
NOT_REPRODUCIBLE = (
    "the first arm trained while shards came in: which of its steps saw which edits depends on when each shard was done"
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of history: means over the steps since the line before, and validation accuracy after `step` steps.

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
    """One point of the frontier: the weights `share` of the way from the base classifier to those of the last step."""

    share: float
    validation_accuracy: float
    validation_edits_accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class ArmRecord:
    """The progress of one arm: a line for each checkpoint, the frontier, and which weights are the best.

    These are of step `best_step`; where `best_share` is below 1, interpolated between base classifier and last step.
    `group_weights` are GroupDRO's, of the last step.
    An arm that is fitted without steps has one line, as of the last step, and says in `fitted` on what and how.
    """

    history: tuple[Entry, ...] = ()
    frontier: tuple[Point, ...] = ()
    best_step: int = 0
    best_share: float = 1.0
    best: Score | None = None
    group_weights: tuple[float, ...] = ()
    fitted: str = ""

    @property
    def step(self) -> int:
        """Return the number of steps that are done."""
        return self.history[-1].step if self.history else 0

    @property
    def num_candidates(self) -> int:
        """Return the number of weights that the choice was among: checkpoints on all shards, and interpolations."""
        return sum(line.num_shards is None for line in self.history) + len(self.frontier)

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
        return _with_candidate(self.add_line(entry), 1.0, score, rank)

    def add_point(self, share: float, score: Score, rank: Rank) -> "ArmRecord":
        """Return the record with one more point of the frontier, whose score becomes the best where it ranks higher."""
        point = Point(share=share, validation_accuracy=score.accuracy, validation_edits_accuracy=score.edits_accuracy)
        return _with_candidate(replace(self, frontier=(*self.frontier, point)), share, score, rank)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of all arms. The last arm is in work; those before it are finished and their models saved."""

    base: Score | None = None
    arms: Mapping[str, ArmRecord] = field(default_factory=dict)
    linear_probe: LinearProbe | None = None

    def with_arm(self, name: str, record: ArmRecord) -> "Progress":
        """Return the progress with the new record of an arm."""
        return replace(self, arms={**self.arms, name: record})

    def is_complete(self, name: str, config: ReinforceConfig) -> bool:
        """Return whether an arm has made all steps, and all weights on the way are scored; or whether it is fitted."""
        record = self.arms.get(name, ArmRecord())
        if record.fitted:
            return True
        return record.step >= config.num_steps and len(record.frontier) >= len(config.interpolation)

    def to_json(self) -> dict[str, Json]:
        """Return what `from_json` reads."""
        found = asdict(self)
        return {BASE: found["base"], "arms": found["arms"], "linear_probe": found["linear_probe"]}

    @classmethod
    def from_json(cls, record: Mapping[str, Json]) -> "Progress":
        """Read the progress from a checkpoint."""
        names = {"base": BASE, "arms": "arms", "linear_probe": "linear_probe"}
        return TypeAdapter(cls).validate_python({field: record.get(name) for field, name in names.items()})


def _with_candidate(record: ArmRecord, share: float, score: Score, rank: Rank) -> ArmRecord:
    if record.best is not None and rank(score) <= rank(record.best):
        return record
    return replace(record, best_step=record.step, best_share=share, best=score)
