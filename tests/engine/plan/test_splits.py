"""Splits: decided by the key alone."""

from collections import Counter

import pytest

from engine.plan.splits import split_of
from engine.runfile.data import Splits

# Another list here would move the sources of every existing run to other splits.
EXPECTED = [
    "test",
    "validation",
    "train",
    "train",
    "validation",
    "test",
    "train",
    "train",
    "test",
    "train",
    "test",
    "train",
]

KEYS = [f"patient-{number}" for number in range(4000)]


def test_shares_are_kept() -> None:
    counts = Counter(split_of(key, Splits(train=0.7, validation=0.1, test=0.2), 0) for key in KEYS)
    assert counts["train"] == pytest.approx(2800, abs=120)
    assert counts["validation"] == pytest.approx(400, abs=80)
    assert counts["test"] == pytest.approx(800, abs=100)


def test_a_split_is_the_same_everywhere_and_for_ever() -> None:
    assert [split_of(f"a-{number}", Splits(), 0) for number in range(12)] == EXPECTED
    assert [split_of(key, Splits(), 0) for key in KEYS] != [split_of(key, Splits(), 1) for key in KEYS]
    assert [split_of(key, Splits(), 0) for key in KEYS] == [split_of(key, Splits(seed=0), 1) for key in KEYS]


def test_a_share_of_zero_stays_empty() -> None:
    for train, validation, test in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0.7, 0, 0.3), (0.9, 0.1, 0), (0, 0.3, 0.7)):
        used = {split_of(key, Splits(train=train, validation=validation, test=test), 0) for key in KEYS}
        shares = {"train": train, "validation": validation, "test": test}
        assert used == {name for name, share in shares.items() if share}


def test_a_larger_training_share_moves_sources_to_training_only() -> None:
    before = {key: split_of(key, Splits(train=0.6, validation=0.2, test=0.2), 0) for key in KEYS}
    after = {key: split_of(key, Splits(train=0.7, validation=0.1, test=0.2), 0) for key in KEYS}
    assert {(before[key], after[key]) for key in KEYS if before[key] != after[key]} == {("validation", "train")}
