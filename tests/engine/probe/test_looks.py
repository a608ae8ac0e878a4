"""The round in which a weakness was found, one vote for each split key."""

import numpy as np
import pyarrow as pa
import pytest

from engine.probe.looks import found_by_round
from engine.probe.pairs import Pairs, read_pairs
from engine.runfile.fields import ModelConfig
from engine.runfile.probe import ProbeConfig

CONFIG = ProbeConfig(model=ModelConfig(name="any"), min_drop=0.05)


def answers(wrong: np.ndarray, keys: list[str] | None = None) -> Pairs:  # type: ignore[type-arg]
    """One background edit of each source, wrong where `wrong` (num_sources,) says so; everything else is right."""
    rows = []
    for source, is_wrong in enumerate(wrong):
        for role, key in (("source", f"{source}"), ("placebo", f"{source}_p"), ("counterfactual", f"{source}_e")):
            is_edit = role == "counterfactual"
            rows.append(
                {
                    "key": key, "source_key": f"{source}", "split_key": keys[source] if keys else f"{source}",
                    "role": role, "split": "train", "label": 0, "class_name": "boot",
                    "edit_kind": "background" if is_edit else "", "edit_before": "", "edit_severity": 1.0,
                    "edit_after": "snow" if is_edit else "", "edit_strategy": "", "edit_steered": False,
                    "accepted": True, "prediction": int(is_edit and is_wrong), "p_label": 0.5,
                }
            )  # fmt: skip
    return read_pairs(pa.Table.from_pylist(rows))


def rounds_of(pairs: Pairs, size: int) -> dict[str, int]:
    return {key: 1 + number // size for number, key in enumerate(pairs.keys)}


def test_a_weakness_is_found_in_the_round_that_showed_it() -> None:
    """Right on the 40 edits of round 1, wrong on all 60 of rounds 2 and 3."""
    pairs = answers(np.arange(100) >= 40)
    found = found_by_round(pairs, rounds_of(pairs, 40), CONFIG)
    assert len(found) == 4  # one cell at each level
    for cell in found:
        assert isinstance(cell, dict)
        assert (cell["found_in_round"], cell["n_sources"], cell["num_cells"]) == (2, 100, 4)
        assert cell["kind"] == "background"
    assert {(cell["class_name"], cell["after"]) for cell in found if isinstance(cell, dict)} == {
        ("boot", "snow"), ("boot", None), (None, "snow"), (None, None),
    }  # fmt: skip


def test_edits_of_one_split_key_in_later_rounds_are_no_new_evidence() -> None:
    """100 photographs of ten animals, each animal in every round: ten votes, which are too few."""
    wrong = np.ones(100, np.bool_)
    animals = [f"animal {number % 10}" for number in range(100)]
    pairs = answers(wrong, animals)
    assert found_by_round(answers(wrong), rounds_of(pairs, 20), CONFIG)
    few = found_by_round(pairs, rounds_of(pairs, 20), CONFIG)
    assert all(isinstance(cell, dict) and cell["n_sources"] == 10 for cell in few)
    alone = found_by_round(answers(np.ones(10, np.bool_)), rounds_of(pairs, 20), CONFIG)
    values = [[cell["e_value"] for cell in cells if isinstance(cell, dict)] for cells in (few, alone)]
    assert values[0] == pytest.approx(values[1])


def test_many_rounds_of_a_clean_classifier_find_nothing() -> None:
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(40):
        pairs = answers(rng.random(200) < 0.05)
        alarms += bool(found_by_round(pairs, rounds_of(pairs, 20), CONFIG))
    assert alarms <= 2


def test_without_edits_nothing_is_found() -> None:
    assert found_by_round(read_pairs(pa.Table.from_pylist([])), {}, CONFIG) == []
