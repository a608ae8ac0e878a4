"""An order of outputs that fits far better is found, and none is made up from noise."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from engine.evaluation.mapping import best_order, better_order


@pytest.mark.parametrize("size", [1, 2, 5, 40])
@pytest.mark.parametrize("highest", [2, 1000])
def test_the_best_order_is_that_of_scipy(size: int, highest: int) -> None:
    for seed in range(10):
        gains = np.random.default_rng([size, highest, seed]).integers(0, highest, (size, size))
        found = best_order(gains)
        assert sorted(found) == list(range(size))
        assert gains[range(size), found].sum() == gains[linear_sum_assignment(gains, maximize=True)].sum()


def test_a_thousand_classes_are_ordered() -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(1000)
    gains = rng.poisson(0.01, (1000, 1000))
    gains[range(1000), order] += 40
    assert best_order(gains).tolist() == order.tolist()


def test_outputs_in_another_order_are_named_with_both_accuracies() -> None:
    classes = ("bag", "boot", "coat", "shirt")
    confusion = np.array([[87, 5, 5, 3], [4, 3, 88, 5], [6, 4, 3, 87], [5, 86, 4, 5]])
    found = better_order(confusion)
    assert found is not None
    assert found.columns == (0, 2, 3, 1)
    assert (found.accuracy, found.accuracy_in_order) == (98 / 400, 348 / 400)
    assert found.describe(classes) == (
        "the classifier's outputs look to be in another order than the run's classes: 24.5\u202f% are right as they "
        "are taken, 87.0\u202f% with output 1 as 'shirt', 2 as 'boot', 3 as 'coat'"
    )


def test_classes_without_images_keep_their_output() -> None:
    confusion = np.zeros((6, 6), np.int64)
    confusion[1, 4] = confusion[4, 1] = 50
    found = better_order(confusion)
    assert found is not None
    assert found.columns == (0, 4, 2, 3, 1, 5)


@pytest.mark.parametrize("per_class", [1, 10, 100])
def test_a_classifier_that_guesses_or_errs_in_one_direction_is_in_order(per_class: int) -> None:
    for seed in range(20):
        rng = np.random.default_rng([per_class, seed])
        assert better_order(rng.multinomial(per_class, [0.1] * 10, 10)) is None
    confusion = np.array([[per_class, 0, 0], [per_class, 0, 0], [0, 0, per_class]])
    assert better_order(confusion) is None
    assert better_order(np.zeros((3, 3), np.int64)) is None
