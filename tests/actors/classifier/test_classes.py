"""Which output of a model is which class of the run: by name, or said where only the order tells."""

from typing import Any

import pytest

from actors.classifier.classes import match_classes, order_remarks, output_names
from engine.errors import ModelError

CLASSES = ("ankle boot", "bag", "t-shirt")


def test_names_match_without_case_spaces_and_underscores() -> None:
    assert match_classes(["T-Shirt", " ANKLE_boot", "bag"], CLASSES, "m") == [1, 2, 0]
    assert match_classes(["cafe\u0301", "Über"], ["über", "café"], "m") == [1, 0]


def test_a_model_without_names_is_taken_by_index_where_the_counts_agree() -> None:
    assert match_classes(["LABEL_0", "LABEL_1", "LABEL_2"], CLASSES, "m") == [0, 1, 2]
    with pytest.raises(ModelError, match="has 2 classes without names, the run has 3"):
        match_classes(["LABEL_0", "LABEL_1"], CLASSES, "m")


def test_a_name_that_two_classes_share_is_refused() -> None:
    with pytest.raises(ModelError, match="more than one class of the name 'crane'"):
        match_classes(["crane, bird", "crane, machine"], ["crane"], "m")


@pytest.mark.parametrize(
    ("names", "classes", "message"),
    [
        (
            ["Ankle boot", "bag"],
            ["Ankle Boot", "ankle_boot", "bag"],
            "'Ankle Boot', 'ankle_boot' are one.*'Ankle boot'",
        ),
        (["laptop, laptop computer", "tench"], ["tench", "laptop", "laptop computer"], "'laptop', 'laptop computer'"),
        (["é", "a"], ["e\u0301", "é", "a"], "are one to model 'm', 'é'"),
    ],
)
def test_two_classes_of_the_run_that_are_one_to_the_model_are_refused(
    names: list[str], classes: list[str], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        match_classes(names, classes, "m")


@pytest.mark.parametrize(
    ("classes", "columns"), [(("cat", "dog"), [0, 1]), (("dog", "cat"), [1, 0]), (("a cat", "Dog"), [0, 1])]
)
def test_a_sigmoid_is_the_probability_of_the_class_that_it_names(classes: tuple[str, str], columns: list[int]) -> None:
    assert match_classes(["dog, hound"], classes, "m") == columns
    (remark,) = order_remarks(["dog, hound"], classes, "m")
    assert remark.endswith(f"the probability of {classes[columns.index(1)]!r}, as its id2label says")


def test_a_sigmoid_without_a_name_is_the_probability_of_the_second_class() -> None:
    assert match_classes(["LABEL_0"], ("dog", "cat"), "m") == [0, 1]
    (remark,) = order_remarks(["LABEL_0"], ("dog", "cat"), "m")
    assert remark.endswith("the probability of 'cat', the second class, as id2label names none")


@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        ("dog", CLASSES, "one output, a sigmoid, which tells two classes apart; the run has 3"),
        ("horse", ("cat", "dog"), "'horse', which is neither of 'cat', 'dog'"),
        ("cat, dog", ("cat", "dog"), "'cat, dog', which is both of 'cat', 'dog'"),
    ],
)
def test_a_sigmoid_that_fits_no_class_is_refused(name: str, classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        match_classes([name], classes, "m")


def test_the_order_is_said_where_no_name_tells_the_outputs() -> None:
    assert order_remarks(["T-Shirt", "bag", "ankle boot"], CLASSES, "m") == []
    assert order_remarks(["LABEL_0", "LABEL_1", "LABEL_2"], CLASSES, "m") == [
        "model 'm' names none of its classes: its outputs are taken in the order of the run's, 0 as 'ankle boot', 1 as "
        "'bag', 2 as 't-shirt'; set id2label in its config.json"
    ]


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"id2label": {"1": "b", "0": "a"}}, ["a", "b"]),
        (
            {"id2label": {str(index): f"c{index}" for index in reversed(range(11))}},
            [f"c{index}" for index in range(11)],
        ),
        ({}, ["LABEL_0", "LABEL_1"]),
        ({"num_labels": 3}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({"num_labels": 1, "problem_type": "multi_label_classification"}, ["LABEL_0"]),
        ({"architecture": "resnet50", "num_classes": 3, "label_names": ["a", "b", "c"]}, ["a", "b", "c"]),
        ({"architecture": "resnet50", "num_classes": 2}, ["LABEL_0", "LABEL_1"]),
        ({"architecture": "resnet50", "num_classes": 1000}, None),
    ],
)
def test_outputs_are_named_in_their_order(config: dict[str, Any], names: list[str] | None) -> None:
    assert output_names(config, "m") == names


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"id2label": {"1": "a", "2": "b"}}, "numbers 2 outputs '1', '2', wanted '0' to '1': the first output is 0"),
        ({"id2label": {"0": "a", "2": "b"}}, "numbers 2 outputs '0', '2'"),
        ({"id2label": None}, "id2label of its config.json is null: write id2label"),
        ({"id2label": ["a", "b"]}, "is a list"),
        ({"id2label": {}}, "is empty"),
        ({"id2label": {"0": 0, "1": 1}}, "names that are no text, such as 0"),
        ({"id2label": {"0": None}}, "names that are no text, such as None"),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, "trained for multi label classification"),
        ({"num_labels": 1, "problem_type": "regression"}, "trained for regression"),
    ],
)
def test_outputs_that_are_no_choice_of_named_classes_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        output_names(config, "m")
