"""E-processes raise no false alarm however often one looks, and find what is there."""

import numpy as np
import pytest

from engine.anytime import drop_e_process, e_benjamini_hochberg
from engine.statistics import Floats, sign_test

LOOKS = np.arange(20, 401, 20)


def drops(rng: np.random.Generator, lost: float, gained: float, num_sources: int = 400) -> Floats:
    draw = rng.random(num_sources)
    return np.where(draw < lost, 1.0, np.where(draw < lost + gained, -1.0, 0.0))


def test_twenty_looks_raise_no_more_false_alarms_than_one() -> None:
    rng = np.random.default_rng(0)
    betting = mcnemar = 0
    for _ in range(1000):
        found = drops(rng, 0.15, 0.15)
        betting += drop_e_process(found)[LOOKS - 1].max() >= 20
        mcnemar += any(
            sign_test(int((found[:look] > 0).sum()), int((found[:look] < 0).sum())) <= 0.05 for look in LOOKS
        )
    assert betting / 1000 <= 0.05
    assert mcnemar / 1000 > 0.14


def test_a_drop_at_the_tolerated_size_is_no_discovery_and_a_larger_one_is() -> None:
    rng = np.random.default_rng(0)
    alarms = [drop_e_process(drops(rng, 0.125, 0.075), 0.05).max() >= 20 for _ in range(1000)]
    assert np.mean(alarms) <= 0.05
    power = [drop_e_process(drops(rng, 0.35, 0.05, 100), 0.05).max() >= 20 for _ in range(300)]
    assert np.mean(power) > 0.9


def test_the_e_value_is_the_mean_of_the_bets_capital() -> None:
    """Without a tolerated drop: the integral over the bet b of (1 + b)(1 + b)(1 - b), 0 to 1, is 11 / 12."""
    found = drop_e_process(np.array([1.0, 1.0, -1.0]))
    assert found == pytest.approx([3 / 2, 7 / 3, 11 / 12], rel=1e-3)
    assert np.isfinite(drop_e_process(np.ones(20_000))).all()


def test_e_bh_finds_what_is_large_for_its_rank() -> None:
    # Of 4 tests at 5 %: one needs 80, two need 40 each.
    assert e_benjamini_hochberg([100.0, 1.0, 50.0, 2.0], 0.05).tolist() == [True, False, True, False]
    assert e_benjamini_hochberg([79.0, 1.0, 30.0, 2.0], 0.05).tolist() == [False] * 4
    assert e_benjamini_hochberg([], 0.05).tolist() == []
