"""Groups are counted right, and a conflict is a difference from what the training data made usual."""

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from engine.evaluation.groups import (
    GroupAccuracy,
    LabelledPrediction,
    _worst_of,
    dominant_values,
    group_counts,
    group_report,
    small_groups,
)
from engine.sources import SourceItem
from engine.statistics import wilson_interval

CLASSES = ("boot", "bag")
DOMINANT = {"boot": {"background": "snow"}, "bag": {"background": "sand"}}


def test_the_usual_value_of_a_class_is_its_dominant_one() -> None:
    items = _items("boot", {"snow": 95, "sand": 5}) + _items("bag", {"sand": 40, "snow": 10, "grass": 8})
    assert dominant_values(items, ["background"]) == DOMINANT


def test_an_attribute_that_was_dealt_by_chance_has_no_dominant_value() -> None:
    items = _items("boot", {"red": 60, "blue": 48, "green": 50}) + _items("bag", {"red": 6, "blue": 2})
    assert dominant_values(items, ["background"]) == {"boot": {}, "bag": {}}


def test_items_without_the_attribute_give_no_dominant_value() -> None:
    assert dominant_values(_items("boot", {"snow": 50}), ["lighting"]) == {}


def test_groups_worst_group_and_conflict_are_counted() -> None:
    answers = [
        *_answers("boot", "snow", 19, 20),
        *_answers("boot", "sand", 3, 12),
        *_answers("boot", "grass", 0, 4),
        *_answers("bag", "sand", 9, 10),
        *_answers("bag", "snow", 5, 10),
    ]
    report = group_report(answers, CLASSES, ["background"], DOMINANT, {})
    assert (report.overall.correct, report.overall.n) == (36, 56)
    assert {name: share.accuracy for name, share in report.classes.items()} == {"boot": 22 / 36, "bag": 14 / 20}
    assert report.worst is not None
    # Boots on grass are worse, but they are only 4.
    assert (report.worst.class_name, dict(report.worst.values)) == ("boot", {"background": "sand"})
    assert report.aligned is not None
    assert (report.aligned.correct, report.aligned.n) == (28, 30)
    assert report.conflict is not None
    assert (report.conflict.correct, report.conflict.n) == (8, 26)
    first = report.to_json()["worst_group"]
    assert isinstance(first, dict)
    assert (first["n"], first["num_groups"]) == (12, 4)
    expected = stats.binomtest(3, 12).proportion_ci(confidence_level=1 - 0.05 / 4)
    assert (first["low"], first["high"]) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize("true", [np.full(40, 0.6), np.linspace(0.2, 0.9, 40), np.full(80, 0.98), np.full(20, 0.03)])
def test_the_interval_of_the_worst_group_covers_the_lowest_true_accuracy(true: NDArray[np.float64]) -> None:
    """The interval of the group that is lowest by chance does not: it is one of many."""
    rng = np.random.default_rng(0)
    n, covered, naive = 25, 0, 0
    for _ in range(300):
        right = rng.binomial(n, true)
        groups = [_group(int(correct), n) for correct in right]
        worst = _worst_of(groups, 0.95)
        assert worst is not None
        covered += worst.low <= true.min() <= worst.high
        low, high = wilson_interval(worst.correct, n)
        naive += low <= true.min() <= high
    assert covered / 300 >= 0.95
    if true[0] == true[-1] == 0.6:
        assert naive / 300 < 0.3


def _group(correct: int, n: int) -> GroupAccuracy:
    low, high = wilson_interval(correct, n)
    share = correct / n
    return GroupAccuracy(
        n=n, correct=correct, accuracy=share, low=low, high=high, class_name="boot", values={}, conflict=None
    )


def test_a_value_that_is_missing_is_neither_usual_nor_a_conflict() -> None:
    assert dominant_values(_items("boot", {"": 95, "sand": 5, "snow": 40}), ["background"]) == {
        "boot": {"background": "snow"}
    }
    answers = [*_answers("boot", "", 0, 30), *_answers("boot", "snow", 9, 10), *_answers("boot", "sand", 1, 10)]
    report = group_report(answers, CLASSES, ["background"], DOMINANT, {})
    assert report.conflict is not None
    assert (report.conflict.correct, report.conflict.n) == (1, 10)
    assert [dict(group.values) for group in report.groups] == [{}, {"background": "sand"}, {"background": "snow"}]


def test_the_adjusted_average_weighs_groups_as_the_training_data_do() -> None:
    answers = [*_answers("boot", "snow", 9, 10), *_answers("boot", "sand", 2, 10), *_answers("bag", "sand", 40, 80)]
    training = group_counts(_items("boot", {"snow": 90, "sand": 5}) + _items("bag", {"sand": 5}), ["background"])
    adjusted = group_report(answers, CLASSES, ["background"], DOMINANT, training).adjusted
    assert adjusted is not None
    assert adjusted.value == pytest.approx(0.9 * 0.9 + 0.05 * 0.2 + 0.05 * 0.5)
    low, high = stats.binomtest(9, 10).proportion_ci(method="wilson")
    # The group of 90 % decides the interval.
    assert adjusted.low == pytest.approx(adjusted.value - 0.9 * (0.9 - low), abs=0.002)
    assert adjusted.high == pytest.approx(adjusted.value + 0.9 * (high - 0.9), abs=0.002)
    # A group that was never seen makes it undefined, and so do unknown training data.
    assert group_report(answers[:20], CLASSES, ["background"], DOMINANT, training).adjusted is None
    assert group_report(answers, CLASSES, ["background"], DOMINANT, {}).to_json()["adjusted_average"] is None


def test_likelihood_is_in_nats_and_stays_finite() -> None:
    answers = [
        LabelledPrediction(class_name="bag", predicted="bag", attributes={}, is_right=True, confidence=1.0, p_label=p)
        for p in (0.5, 0.25, 0.0)
    ]
    assert group_report(answers[:2], CLASSES, [], {}, {}).nll == pytest.approx(1.5 * math.log(2))
    assert 5 < group_report(answers, CLASSES, [], {}, {}).nll < 7


def test_a_second_attribute_without_dominant_value_makes_no_conflict() -> None:
    answer = LabelledPrediction(
        class_name="boot",
        predicted="boot",
        attributes={"background": "snow", "colour": "red"},
        is_right=True,
        confidence=0.9,
        p_label=0.9,
    )
    (group,) = group_report([answer], CLASSES, ["background", "colour"], DOMINANT, {}).groups
    assert group.conflict is False
    assert group.values == {"background": "snow", "colour": "red"}


def test_without_attributes_the_groups_are_the_classes_and_nothing_conflicts() -> None:
    answers = [
        LabelledPrediction(class_name="bag", predicted="bag", attributes={}, is_right=True, confidence=0.7, p_label=0.7)
    ] * 20
    report = group_report(answers, CLASSES, [], {}, {})
    content = report.to_json()
    assert (content["conflict_accuracy"], content["aligned_accuracy"], content["worst_group_accuracy"]) == (
        None,
        None,
        1,
    )
    assert report.classes["boot"].accuracy is None
    assert report.calibration_error == pytest.approx(0.3)


def test_the_report_of_no_image_is_plain_json() -> None:
    content = json.dumps(group_report([], CLASSES, ["background"], DOMINANT, {}).to_json(), allow_nan=False)
    assert json.loads(content)["accuracy"] is None


def _items(class_name: str, counts: dict[str, int]) -> list[SourceItem]:
    return [
        SourceItem(
            key=f"{class_name}-{value}-{number}",
            split_key="",
            label=CLASSES.index(class_name),
            class_name=class_name,
            locator="",
            attributes={"background": value},
        )
        for value, count in counts.items()
        for number in range(count)
    ]


def test_groups_that_are_too_small_to_rank_are_counted_together_and_the_worst_are_named() -> None:
    answers = [*_answers("bag", "sand", 12, 12), *_answers("bag", "snow", 0, 9), *_answers("boot", "snow", 2, 4)]
    report = group_report(answers, CLASSES, ["background"], {}, {}).to_json()
    found = small_groups(report["groups"], 10)  # type: ignore[arg-type]  # JSON
    assert found is not None
    assert (found.num_groups, found.n, found.correct) == (2, 13, 2)
    assert found.accuracy == pytest.approx(2 / 13)
    assert [(group["class_name"], group["values"], group["n"]) for group in found.worst] == [
        ("bag", {"background": "snow"}, 9),
        ("boot", {"background": "snow"}, 4),
    ]
    assert small_groups(report["groups"], 4) is None  # type: ignore[arg-type]  # JSON


def _answers(class_name: str, background: str, correct: int, n: int) -> list[LabelledPrediction]:
    return [
        LabelledPrediction(
            class_name=class_name,
            predicted=class_name,
            attributes={"background": background},
            is_right=number < correct,
            confidence=0.9,
            p_label=0.9,
        )
        for number in range(n)
    ]
