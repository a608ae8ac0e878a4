"""Accuracy by group, a class with its attribute values, and over groups with and without the class's usual values."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.canonical import as_json
from engine.evaluation.confidence import negative_log_likelihood
from engine.sample import Json
from engine.sources import SourceItem
from engine.statistics import UNDEFINED, Interval, calibration_error, exact_interval, wilson_interval

# A dominant value is this many times as common as the next one, by this many standard errors. An attribute independent
# of the class (eight colours, equally often) has no dominant value, hence no conflicts.
DOMINANCE = 2.0
STANDARD_ERRORS = 3.0
# Of the groups that are too small to be ranked, so many are named.
NUM_WORST = 3

# By class name and attribute: the dominant value in the training data. Attributes without one are left out.
Dominant = Mapping[str, Mapping[str, str]]
# A group: its class name and attribute values.
GroupKey = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, kw_only=True)
class LabelledPrediction:
    """A classifier's prediction for one labelled image; `confidence` is the probability of the class `predicted`."""

    class_name: str
    predicted: str
    attributes: Mapping[str, str]
    is_right: bool
    confidence: float
    p_label: float


@dataclass(frozen=True, kw_only=True)
class AccuracyCount:
    """Correct predictions of `n` images, their share (None where n is 0), and its Wilson interval."""

    n: int
    correct: int
    accuracy: float | None
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class GroupAccuracy(AccuracyCount):
    """Accuracy in one group: a class with one value of each attribute.

    `conflict` says whether a value differs from the class's dominant one; None where the class has none.
    """

    class_name: str
    values: Mapping[str, str]
    conflict: bool | None


@dataclass(frozen=True, kw_only=True)
class WorstGroup(GroupAccuracy):
    """The group of lowest accuracy of `num_groups`; `low` and `high` bound the lowest true accuracy of all of these.

    The lowest of many estimates is biased downwards, and the interval of its group alone does not cover the minimum.
    With every group's exact interval at a level corrected for their number (Bonferroni), all hold at once, and the
    minimum lies between the smallest lower and the smallest upper end.
    """

    num_groups: int


@dataclass(frozen=True, kw_only=True)
class SmallGroups(AccuracyCount):
    """Accuracy over all groups that are too small to be ranked, and the worst of them, as JSON."""

    num_groups: int
    worst: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class GroupReport:
    """Accuracy of one classifier on one labelled set: over all images, by class and by group.

    `worst` is the group of lowest accuracy among those with at least `min_n` images. `aligned` and `conflict` are None
    where no value is dominant. Without attributes the groups are the classes. `adjusted` weighs each group's accuracy
    by its share of the training data (Sagawa et al. 2020, for Waterbirds); None where a group of the training data has
    no image here. `nll` is in nats.
    """

    overall: AccuracyCount
    classes: Mapping[str, AccuracyCount]
    groups: tuple[GroupAccuracy, ...]
    min_n: int
    worst: WorstGroup | None
    aligned: AccuracyCount | None
    conflict: AccuracyCount | None
    adjusted: Interval | None
    calibration_error: float
    nll: float

    def to_json(self) -> dict[str, Json]:
        """Return the report as plain JSON."""
        singled_out = {"worst_group": self.worst, "aligned": self.aligned, "conflict": self.conflict}
        content: dict[str, Json] = as_json(
            {
                **vars(self.overall),
                "classes": [{"class_name": name, **vars(share)} for name, share in self.classes.items()],
                "groups": self.groups,
                "min_n": self.min_n,
                **singled_out,
                **{f"{name}_accuracy": found and found.accuracy for name, found in singled_out.items()},
                "adjusted_average": self.adjusted or UNDEFINED,
                "calibration_error": self.calibration_error,
                "nll": self.nll,
            }
        )
        return content


def dominant_values(items: Iterable[SourceItem], group_by: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return each class's dominant value of each attribute in the training data, where it has one."""
    counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for item in items:
        for name in group_by:
            if item.attributes.get(name):
                counts[item.class_name][name][item.attributes[name]] += 1
    found: dict[str, dict[str, str]] = {}
    for class_name, by_name in sorted(counts.items()):
        values = {name: _dominant(counter) for name, counter in by_name.items()}
        found[class_name] = {name: value for name, value in values.items() if value is not None}
    return found


def group_counts(items: Iterable[SourceItem], group_by: Sequence[str]) -> Counter[GroupKey]:
    """Return the number of images of each group."""
    return Counter(_key(item.class_name, item.attributes, group_by) for item in items)


def group_report(
    predictions: Sequence[LabelledPrediction],
    classes: Sequence[str],
    group_by: Sequence[str],
    dominant: Dominant,
    training: Mapping[GroupKey, int],
    *,
    confidence: float = 0.95,
    min_n: int = 10,
) -> GroupReport:
    """Return accuracy over all images, by class, by group, and over aligned and conflicting groups.

    `training` counts the images of each group in the training data.
    """
    by_group: dict[GroupKey, list[LabelledPrediction]] = defaultdict(list)
    by_conflict: dict[bool | None, list[LabelledPrediction]] = defaultdict(list)
    for one in predictions:
        key = _key(one.class_name, one.attributes, group_by)
        by_group[key].append(one)
        by_conflict[conflicts(dominant, one.class_name, dict(key[1]))].append(one)
    by_class = {name: [one for one in predictions if one.class_name == name] for name in classes}
    over_conflicts = {conflict: _accuracy_of(members, confidence) for conflict, members in by_conflict.items()}
    groups = [
        GroupAccuracy(
            class_name=name,
            values=dict(values),
            conflict=conflicts(dominant, name, dict(values)),
            **vars(_accuracy_of(members, confidence)),
        )
        for (name, values), members in sorted(by_group.items())
    ]
    return GroupReport(
        overall=_accuracy_of(predictions, confidence),
        classes={name: _accuracy_of(members, confidence) for name, members in by_class.items()},
        groups=tuple(groups),
        min_n=min_n,
        worst=_worst_of([group for group in groups if group.n >= min_n], confidence),
        aligned=over_conflicts.get(False),
        conflict=over_conflicts.get(True),
        adjusted=_adjusted(groups, training),
        calibration_error=calibration_error(
            np.array([one.confidence for one in predictions], np.float64),
            np.array([one.is_right for one in predictions], np.bool_),
        ),
        nll=negative_log_likelihood(np.array([one.p_label for one in predictions], np.float64)),
    )


def small_groups(groups: Sequence[Mapping[str, Any]], min_n: int) -> SmallGroups | None:
    """Return the groups of fewer than `min_n` images together, from GroupAccuracy as JSON; None where there is none."""
    small = [group for group in groups if group["n"] < min_n]
    if not small:
        return None
    n, correct = (sum(group[name] for group in small) for name in ("n", "correct"))
    low, high = wilson_interval(correct, n)
    return SmallGroups(
        num_groups=len(small),
        # Not by accuracy: 0 of 1 says less than 1 of 9.
        worst=sorted(small, key=lambda group: group["high"])[:NUM_WORST],
        n=n,
        correct=correct,
        accuracy=correct / n,
        low=low,
        high=high,
    )


def conflicts(dominant: Dominant, class_name: str, values: Mapping[str, str]) -> bool | None:
    """Return whether any value differs from its class's dominant one; None where the class has none."""
    usual = {name: value for name, value in dominant.get(class_name, {}).items() if name in values}
    return any(values[name] != value for name, value in usual.items()) if usual else None


def _key(class_name: str, attributes: Mapping[str, str], group_by: Sequence[str]) -> GroupKey:
    return class_name, tuple((name, attributes[name]) for name in group_by if attributes.get(name))


def _accuracy_of(predictions: Sequence[LabelledPrediction], confidence: float) -> AccuracyCount:
    correct, n = sum(one.is_right for one in predictions), len(predictions)
    low, high = wilson_interval(correct, n, confidence)
    return AccuracyCount(n=n, correct=correct, accuracy=correct / n if n else None, low=low, high=high)


def _worst_of(groups: Sequence[GroupAccuracy], confidence: float) -> WorstGroup | None:
    """Return the group of lowest accuracy with the simultaneous interval of the minimum, None without groups."""
    if not groups:
        return None
    level = 1 - (1 - confidence) / len(groups)
    counts = {(group.correct, group.n) for group in groups}
    low, high = (min(ends) for ends in zip(*(exact_interval(*found, level) for found in counts), strict=True))
    worst = min(groups, key=lambda group: (group.accuracy or 0.0, -group.n))
    return WorstGroup(**{**vars(worst), "low": low, "high": high}, num_groups=len(groups))


def _adjusted(groups: Sequence[GroupAccuracy], training: Mapping[GroupKey, int]) -> Interval | None:
    """Return the average of group accuracies weighted by the training data; its interval as in Zou and Donner 2008."""
    found = {(group.class_name, tuple(group.values.items())): group for group in groups}
    total = sum(training.values())
    if not total or not training.keys() <= found.keys():
        return None
    value = below = above = 0.0
    for key, count in training.items():
        group, weight = found[key], count / total
        accuracy = group.correct / group.n
        value += weight * accuracy
        below += (weight * (accuracy - group.low)) ** 2
        above += (weight * (group.high - accuracy)) ** 2
    return Interval(value=value, low=value - math.sqrt(below), high=value + math.sqrt(above))


def _dominant(counter: Counter[str]) -> str | None:
    (value, first), *others = counter.most_common(2)
    second = others[0][1] if others else 0
    is_common = first >= DOMINANCE * second and first - second >= STANDARD_ERRORS * math.sqrt(first + second)
    return value if is_common else None
