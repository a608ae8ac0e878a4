"""Which edits count as evidence, and which placebo each is held against."""

import numpy as np
import pyarrow as pa

from engine.probe.pairs import Pairs, read_pairs


def row(
    key: str, role: str, *, strategy: str = "", steered: bool = False, right: bool = True, **more: object
) -> dict[str, object]:
    """One answer about source `a`, its placebo or an edit of it."""
    return {
        "key": key, "source_key": "a", "split_key": "a", "role": role, "split": "train", "label": 0,
        "class_name": "boot", "edit_kind": "background", "edit_before": "grass", "edit_after": "snow",
        "edit_severity": 1.0, "edit_strategy": strategy, "edit_steered": steered, "accepted": True,
        "prediction": 0 if right else 1, "p_label": 0.9 if right else 0.1, **more,
    }  # fmt: skip


def pairs_of(*rows: dict[str, object]) -> Pairs:
    return read_pairs(pa.Table.from_pylist([row("a", "source", edit_turn=None), *rows]))


def test_a_steered_edit_is_no_evidence() -> None:
    fair = row("a_cf00", "counterfactual")
    steered = row("a_cf01", "counterfactual", steered=True, right=False)
    pairs = pairs_of(row("a_placebo", "placebo"), fair, steered)
    assert pairs.keys == ["a_cf00"]
    assert pairs.right_edit.tolist() == [1.0]


def test_an_edit_is_held_against_the_placebo_of_its_own_strategy() -> None:
    pairs = pairs_of(
        row("a_placebo", "placebo", strategy="draw", right=True),
        row("a_fill_placebo", "placebo", strategy="fill", right=False),
        row("a_cf00", "counterfactual", strategy="draw"),
        row("a_cf01", "counterfactual", strategy="fill"),
        row("a_cf02", "counterfactual", strategy="swap"),
    )
    assert pairs.right_placebo[:2].tolist() == [1.0, 0.0]
    assert np.isnan(pairs.right_placebo[2])


def test_an_edit_of_two_turns_is_held_against_a_placebo_of_two_and_is_a_kind_of_its_own() -> None:
    pairs = pairs_of(
        row("a_placebo", "placebo", edit_turn=1, right=True),
        row("a_placebo_t2", "placebo", edit_turn=2, right=False),
        row("a_cf00", "counterfactual", edit_turn=1),
        row("a_cf00_t2", "counterfactual", edit_turn=2, edit_kind="background+colour", edit_after="snow + red"),
        row("a_cf00_t3", "counterfactual", edit_turn=3, edit_kind="background+colour+lighting"),
    )
    assert pairs.right_placebo[:2].tolist() == [1.0, 0.0]
    assert np.isnan(pairs.right_placebo[2])
    assert [pairs.kinds[kind] for kind in pairs.kind] == [
        "background", "background+colour", "background+colour+lighting",
    ]  # fmt: skip
