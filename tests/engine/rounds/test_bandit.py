"""Which cells the bandit spends on: the weak ones, within floor and cap, and what it does not know now and then."""

import numpy as np
import pytest

from engine.rounds.bandit import BetaPosterior, crossed_posterior, thompson_shares, within_limits
from engine.runfile.run import RoundsConfig

ALL = np.arange(4)


def believed(hits: list[float], counts: list[int], *groupings: list[int]) -> BetaPosterior:
    one_kind = np.zeros(len(hits), np.int64)
    return crossed_posterior(np.array(hits, np.float64), np.array(counts), one_kind, [*map(np.array, groupings)])


def test_a_cell_of_its_own_experience_is_believed_and_one_without_takes_after_its_group() -> None:
    known = believed([180.0, 0.0, 0.0, 0.0], [200, 200, 2, 0])
    assert known.mean[0] == pytest.approx(0.9, abs=0.03)
    assert known.mean[1] == pytest.approx(0.0, abs=0.03)
    group = 180 / 402
    assert known.mean[3] == pytest.approx(group, abs=0.01)
    assert 0.2 < known.mean[2] < group


def test_experience_of_one_group_says_less_of_another() -> None:
    known = believed([90.0, 0.0, 0.0, 0.0], [100, 0, 100, 0], [0, 0, 1, 1])
    assert known.mean[1] > 0.7
    assert known.mean[3] < 0.2


def test_a_value_that_misleads_in_every_class_is_expected_to_in_one_where_it_was_not_tried() -> None:
    classes, values = [0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1]
    known = believed([3.0, 0.0, 3.0, 0.0, 0.0, 0.0], [3, 3, 3, 3, 0, 0], classes, values)
    assert known.mean[4] > 2 * known.mean[5]
    # Nested in the classes alone, nothing would tell these two apart.
    assert believed([3.0, 0.0, 3.0, 0.0, 0.0, 0.0], [3, 3, 3, 3, 0, 0], classes).mean[4:].std() < 1e-9


def test_groups_that_all_succeed_leave_a_cell_in_the_range_of_a_share() -> None:
    known = believed([400.0, 400.0, 400.0, 0.0], [400, 400, 400, 4000], [0, 0, 1, 1], [0, 1, 0, 1])
    assert (known.alpha > 0).all()
    assert (known.beta > 0).all()


def test_most_goes_where_weakness_times_acceptance_is_largest() -> None:
    weakness = believed([80.0, 80.0, 5.0, 5.0], [100] * 4)
    accepted = believed([90.0, 10.0, 90.0, 90.0], [100] * 4)
    share = thompson_shares(weakness, accepted, ALL, 1, seed=1)
    assert share[0] > 0.95
    assert share.sum() == pytest.approx(1)
    assert share.min() > 0


def test_a_budget_that_reaches_for_all_cells_is_still_spent_on_the_weak() -> None:
    weakness, accepted = believed([80.0, 5.0, 5.0, 5.0], [100] * 4), believed([90.0] * 4, [100] * 4)
    share = thompson_shares(weakness, accepted, ALL, 4, seed=1)
    assert share[0] > 0.75


def test_what_was_never_tried_is_tried_more_than_what_is_known_to_be_harmless() -> None:
    weakness = believed([40.0, 0.0, 0.0, 0.0], [100, 100, 100, 0])
    accepted = believed([90.0] * 4, [100] * 4)
    share = thompson_shares(weakness, accepted, ALL, 1, seed=1)
    assert share[3] > 5 * share[1]


def test_the_same_seed_gives_the_same_shares() -> None:
    weakness, accepted = believed([9.0, 3.0, 3.0, 0.0], [10] * 4), believed([9.0] * 4, [10] * 4)
    first, again, other = (thompson_shares(weakness, accepted, ALL, 2, seed=seed) for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()


def test_each_kind_keeps_the_floor_and_no_value_gets_more_than_the_cap() -> None:
    shares = np.array([0.93, 0.03, 0.02, 0.01, 0.005, 0.005])
    kinds, is_value = np.array([0, 0, 0, 1, 2, 2]), np.array([True, True, False, False, True, False])
    limited, lifted, held = within_limits(shares, kinds, is_value, RoundsConfig(floor=0.1, cap=0.25))
    assert limited.sum() == pytest.approx(1)
    assert np.bincount(kinds, limited) == pytest.approx([0.8, 0.1, 0.1])
    assert limited[is_value].max() <= 0.25 + 1e-9
    assert held.tolist() == [True, True, False, False, False, False]
    assert lifted.tolist() == [False, False, False, True, True, True]


def test_limits_that_bind_nothing_change_nothing() -> None:
    shares = np.array([0.3, 0.2, 0.3, 0.2])
    limited, lifted, held = within_limits(
        shares, np.array([0, 0, 1, 1]), np.array([True, False] * 2), RoundsConfig(floor=0.1, cap=0.5)
    )
    assert limited == pytest.approx(shares)
    assert not lifted.any()
    assert not held.any()


def test_floors_that_leave_no_room_share_evenly() -> None:
    shares = np.array([0.9, 0.1])
    limited, _, _ = within_limits(shares, np.array([0, 1]), np.array([False, False]), RoundsConfig(floor=0.5))
    assert limited == pytest.approx([0.5, 0.5])
