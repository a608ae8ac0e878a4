"""The pictures of the report: rows of one source each, flips first, and accepted and rejected examples."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from engine.runfile.arms import BASE
from engine.sample import ROLES, Sample

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Guess:
    """One classifier's prediction for one picture; `confidence` is the probability of `class_name`."""

    class_name: str
    confidence: float
    right: bool


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A sample with the predictions of the base classifier and of the arm that may ship, where known."""

    sample: Sample
    guesses: Mapping[str, Guess] = field(default_factory=dict)

    @property
    def was_right(self) -> bool | None:
        """Return whether the base classifier's prediction is correct; None without a prediction."""
        return self.guesses[BASE].right if BASE in self.guesses else None

    @property
    def is_cured(self) -> bool:
        """Return whether the prediction after training is correct."""
        return any(guess.right for arm, guess in self.guesses.items() if arm != BASE)


@dataclass(frozen=True, kw_only=True)
class PictureRow:
    """The pictures of one source: source, placebo, then counterfactuals."""

    pictures: tuple[Picture, ...]

    @property
    def source(self) -> Picture:
        """Return the source's own picture."""
        return self.pictures[0]

    def flips(self) -> list[Picture]:
        """Return the accepted counterfactuals that the base classifier gets wrong, but not source and placebo."""
        if any(picture.was_right is False for picture in self.pictures if not _is_counterfactual(picture)):
            return []
        return [picture for picture in self.pictures if _is_counterfactual(picture) and picture.was_right is False]

    def repairs(self) -> list[Picture]:
        """Return the flips that the trained classifier gets right."""
        return [picture for picture in self.flips() if picture.is_cured]


def make_rows(
    samples: Iterable[Sample], guesses: Mapping[str, Mapping[str, Guess]], width: int = 5
) -> list[PictureRow]:
    """Group samples by source into rows of at most `width` pictures, flips first; sources without an edit are left out.

    `guesses` has the predictions by arm and sample key.
    """
    rows = []
    for members in _grouped(samples, lambda sample: sample.source_key):
        pictures = [
            Picture(sample=sample, guesses={arm: by[sample.key] for arm, by in guesses.items() if sample.key in by})
            for sample in members
        ]
        ordered = sorted(pictures, key=_row_order)
        if ordered[0].sample.role == "source" and any(map(_is_counterfactual, ordered)):
            rows.append(PictureRow(pictures=tuple(ordered[:width])))
    return rows


def choose_rows(rows: Sequence[PictureRow], count: int) -> list[PictureRow]:
    """Return `count` rows with the most repaired flips, then the most flips, taking the classes in turn."""
    best = sorted(rows, key=lambda row: (-len(row.repairs()), -len(row.flips()), row.source.sample.key))
    by_class = _grouped(best, lambda row: row.source.sample.class_name)
    ranked = sorted(by_class, key=lambda rows: (-len(rows[0].repairs()), -len(rows[0].flips())))
    return list(_in_turn(ranked))[:count]


def choose_examples(samples: Iterable[Sample], *, is_accepted: bool, count: int) -> list[Sample]:
    """Return `count` edits with this verdict, taking reasons (for accepted edits, kinds) in turn."""

    def kind(sample: Sample) -> str | None:
        if sample.edit is None or sample.verdict is None or sample.verdict.accepted != is_accepted:
            return None
        return sample.edit.kind if is_accepted else " ".join(sample.verdict.reasons)

    by_kind = _grouped((sample for sample in samples if kind(sample) is not None), kind)
    # Within a kind the classes come in turn.
    spread = [list(_in_turn(_grouped(group, lambda sample: sample.class_name))) for group in by_kind]
    return list(_in_turn(spread))[:count]


def _row_order(picture: Picture) -> tuple[int, bool, str]:
    return ROLES.index(picture.sample.role), picture.was_right is not False, picture.sample.key


def _is_counterfactual(picture: Picture) -> bool:
    return picture.sample.role == "counterfactual"


def _grouped(items: Iterable[T], key: Callable[[T], object]) -> list[list[T]]:
    """Return the items of each key, keys and items in their order."""
    groups: dict[object, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return list(groups.values())


def _in_turn(groups: Sequence[Sequence[T]]) -> Iterator[T]:
    """Yield the first of every group, then the second of every group, and so on."""
    for place in range(max(map(len, groups), default=0)):
        yield from (group[place] for group in groups if place < len(group))
