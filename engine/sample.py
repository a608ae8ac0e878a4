"""The records that flow through a run: Sample, Edit, Verdict and Rejection, and the Stage that maps them."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

# Encoded, such as a JPEG. A view is one of memory that others read too: `bytes(image)` is a copy of one's own.
ImageBytes = bytes | memoryview
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

Role = Literal["source", "placebo", "counterfactual"]
Split = Literal["train", "validation", "test"]
# A word of the run file, such as "background", or "placebo".
EditKind = str

# The instruction of a placebo: what an editor that follows instructions is asked for.
PLACEBO_INSTRUCTION = "keep the picture as it is"

ROLES: tuple[Role, ...] = ("source", "placebo", "counterfactual")
# What joins the kinds of a sequence of edits, as in "background+colour", and its values, as in "snow + red".
KINDS_JOINT, VALUES_JOINT = "+", " + "
# The reason for which a later turn is given up.
NO_TURN_BEFORE = "no_turn_before"


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Describe one change to an image: `before` becomes `after`.

    `instruction` is for editors that follow commands, `caption` describes the edited image for those that follow
    captions. `severity` is in (0, 1]; 1 is the whole change. A placebo has before == after and the source's caption.
    `strategy` is the stage that draws it, "" the run's only editor. `target` is the class that it goes towards, "" if
    the label stays. `turn` counts from 1 in a sequence of edits, each drawn on the picture of the one before: `kind`,
    `before` and `after` are then those of all turns, joined, `caption` describes all changes, `instruction` is that of
    this turn. `region` is the part of the image that may change, as run lengths, one of each turn, "" all of it. An
    edit is `steered` if the classifier's answers chose or drew it: it is then no fair sample of edits and stays out of
    statistics about them.
    """

    kind: EditKind
    before: str
    after: str
    instruction: str
    caption: str
    severity: float = 1.0
    strategy: str = ""
    target: str = ""
    turn: int = 1
    region: str = ""
    steered: bool = False

    @classmethod
    def placebo(cls, caption: str, *, strategy: str = "") -> "Edit":
        """Return the edit that changes nothing, of a source with this caption."""
        return cls(
            kind="placebo",
            before=caption,
            after=caption,
            instruction=PLACEBO_INSTRUCTION,
            caption=caption,
            strategy=strategy,
        )

    @property
    def own_change(self) -> "Edit":
        """Return this turn's change alone, as it is drawn on the picture of the turn before; itself at turn 1."""
        if self.turn == 1:
            return self
        [*_, (kind, before)], [*_, (_, after)] = by_turn(self.kind, self.before), by_turn(self.kind, self.after)
        return replace(self, kind=kind, before=before, after=after)

    def then(self, change: "Edit") -> "Edit":
        """Return the sequence of this edit and another change, which is drawn on its picture."""
        return replace(
            change,
            kind=self.kind + KINDS_JOINT + change.kind,
            before=self.before + VALUES_JOINT + change.before,
            after=self.after + VALUES_JOINT + change.after,
            turn=self.turn + 1,
        )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Say whether a sample passed the verifier, and which checks it failed if not.

    `notes` are remarks in words, by the name of the check that makes them, for a person to read.
    """

    accepted: bool
    reasons: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Represent one image on its way through the pipeline.

    `image` is encoded (JPEG, PNG, ...) and empty until the editor has made it; from one actor to the next it becomes a
    read-only view, which is not copied. `key` is unique in the run and has no dots; a source has key == source_key.
    `label` indexes the run's classes and `class_name` is its name. `target` is a soft label: shares by class name that
    sum to 1, empty where the label is the whole truth. `attributes` are the user's own (group-by columns). `scores` are
    finite numbers; one that is NaN or missing is undefined.
    """

    key: str
    source_key: str
    role: Role
    image: ImageBytes
    label: int
    class_name: str
    split: Split
    caption: str = ""
    edit: Edit | None = None
    target: Mapping[str, float] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    verdict: Verdict | None = None
    provenance: Mapping[str, Json] = field(default_factory=dict)

    @property
    def is_accepted(self) -> bool:
        """Return whether no verdict rejects it; one that was not verified is accepted."""
        return self.verdict is None or self.verdict.accepted

    @property
    def control(self) -> tuple[str, str, int]:
        """Return what an edit and its placebo have in common: their source, who draws them, and in how many turns."""
        return (self.source_key, "", 1) if self.edit is None else (self.source_key, self.edit.strategy, self.edit.turn)

    @property
    def drawn_on(self) -> str:
        """Return the key of the sample whose picture is edited: the turn before of a later turn, else the source."""
        turn = 1 if self.edit is None else self.edit.turn
        return self.source_key if turn == 1 else turn_key(self.key.rsplit("_t", 1)[0], turn - 1)

    def seed(self, run_seed: int) -> int:
        """Return a 63-bit seed that depends on the run's seed and this sample's key alone."""
        return content_seed(run_seed, self.key)


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """Name a sample that could not be processed, the stage that gave it up, and why.

    `reason` is a short identifier that is counted ("unreadable_image"), `detail` is for a person.
    """

    key: str
    source_key: str
    stage: str
    reason: str
    detail: str

    @classmethod
    def of(cls, sample: Sample, *, stage: str, reason: str, detail: str) -> "Rejection":
        """Return the rejection of a sample."""
        return cls(key=sample.key, source_key=sample.source_key, stage=stage, reason=reason, detail=detail)


class Stage(Protocol):
    """Map the samples of one whole shard; every sample leaves as one or more samples or as a Rejection.

    Groups (a source, its placebo, its counterfactuals) arrive whole and adjacent.
    """

    def __call__(self, batch: Sequence[Sample]) -> Iterator[Sample | Rejection]:
        """Yield the processed samples and the rejections, groups still adjacent."""
        ...


def draw_turns(
    stage: str,
    batch: Sequence[Sample],
    draw: Callable[[Sequence[Sample], list[tuple[Sample, Edit]]], Mapping[str, Sample | Rejection]],
) -> Iterator[Sample | Rejection]:
    """Yield each sample of a batch; those that a stage is to draw as `draw` returns them, by their keys.

    These are edits that name the stage, or none, and have no image. `draw` gets one turn of them at a time, with this
    turn's change alone, and the batch with the pictures of the turns before. A later turn without such a picture is
    given up.
    """
    drawn: dict[str, Sample | Rejection] = {}
    wanted = [
        (sample, sample.edit)
        for sample in batch
        if sample.edit is not None and not sample.image and sample.edit.strategy in ("", stage)
    ]
    for turn in sorted({1, *(edit.turn for _, edit in wanted)}):
        now = [item for sample in batch if isinstance(item := drawn.get(sample.key, sample), Sample)]
        pictures = {sample.key for sample in now if sample.image}
        asked: list[tuple[Sample, Edit]] = []
        for sample, edit in wanted:
            if edit.turn == turn and (turn == 1 or sample.drawn_on in pictures):
                asked.append((sample, edit.own_change))
            elif edit.turn == turn:
                detail = f"there is no picture of the turn before, {sample.drawn_on}"
                drawn[sample.key] = Rejection.of(sample, stage=stage, reason=NO_TURN_BEFORE, detail=detail)
        drawn.update(draw(now, asked))
    for sample in batch:
        yield drawn.get(sample.key, sample)


def by_turn(kind: EditKind, value: str) -> list[tuple[EditKind, str]]:
    """Return the kind of each turn of an edit with its part of a value, such as `after`; one pair for a single turn."""
    kinds, values = kind.split(KINDS_JOINT), value.split(VALUES_JOINT)
    return list(zip(kinds, values, strict=True)) if len(kinds) == len(values) else [(kind, value)]


def turn_key(key: str, turn: int) -> str:
    """Return the key of a turn of the sequence that begins with the edit `key`: itself, then {key}_t2, {key}_t3."""
    return key if turn == 1 else f"{key}_t{turn}"


def content_seed(run_seed: int, key: str) -> int:
    """Return a 63-bit seed from a run seed and a key: the same on every machine, in any order."""
    digest = hashlib.blake2b(f"{run_seed}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def sort_groups(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples ordered by source key, then source, placebo, counterfactuals by key."""
    return sorted(samples, key=lambda sample: (sample.source_key, ROLES.index(sample.role), sample.key))
