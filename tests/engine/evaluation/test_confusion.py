"""A wrong order of outputs is found in labels and predictions."""

import numpy as np

from engine.evaluation.confusion import MAX_CLASSES, wrong_order

CLASSES = ("bag", "boot", "coat")


def test_predictions_in_another_order_are_said_with_both_accuracies() -> None:
    labels = np.arange(90) % 3
    found = wrong_order(labels, (labels + 1) % 3, CLASSES)
    assert found is not None
    assert found.endswith(
        "0.0\u202f% are right as they are taken, 100.0\u202f% with output 0 as 'coat', 1 as 'bag', 2 as 'boot'"
    )
    assert wrong_order(labels, labels, CLASSES) is None
    assert wrong_order([], [], CLASSES) is None


def test_the_matrix_of_too_many_classes_is_not_made() -> None:
    labels = np.arange(90)
    assert wrong_order(labels, labels + 1, tuple(map(str, range(MAX_CLASSES + 1)))) is None
