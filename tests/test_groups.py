"""Groups are counted right, and a conflict is a difference from what the training data made usual."""

import json

import pytest
from scipy import stats

from engine.groups import Answer, dominant_values, group_report
from engine.sources import SourceItem

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
    report = group_report(answers, CLASSES, ["background"], DOMINANT)
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
    expected = stats.binomtest(3, 12).proportion_ci(method="wilson")
    assert (first["low"], first["high"]) == pytest.approx((expected.low, expected.high))


def test_a_second_attribute_without_dominant_value_makes_no_conflict() -> None:
    answer = Answer(
        class_name="boot", attributes={"background": "snow", "colour": "red"}, is_right=True, confidence=0.9
    )
    (group,) = group_report([answer], CLASSES, ["background", "colour"], DOMINANT).groups
    assert group.conflict is False
    assert group.values == {"background": "snow", "colour": "red"}


def test_without_attributes_the_groups_are_the_classes_and_nothing_conflicts() -> None:
    answers = [Answer(class_name="bag", attributes={}, is_right=True, confidence=0.7)] * 20
    report = group_report(answers, CLASSES, [], {})
    content = report.to_json()
    assert (content["conflict_accuracy"], content["aligned_accuracy"], content["worst_group_accuracy"]) == (
        None,
        None,
        1,
    )
    assert report.classes["boot"].accuracy is None
    assert report.calibration_error == pytest.approx(0.3)


def test_the_report_of_no_image_is_plain_json() -> None:
    content = json.dumps(group_report([], CLASSES, ["background"], DOMINANT).to_json(), allow_nan=False)
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


def _answers(class_name: str, background: str, correct: int, n: int) -> list[Answer]:
    return [
        Answer(class_name=class_name, attributes={"background": background}, is_right=number < correct, confidence=0.9)
        for number in range(n)
    ]
