"""Transfer: the same cells on another classifier, and flips in common against those of chance."""

import math

import numpy as np
import pyarrow as pa
import pytest

from engine.canonical import as_json
from engine.probe.pairs import Pairs, read_pairs
from engine.probe.transfer import shared_flips, transfer
from engine.probe.weakness import weakness
from engine.runfile.probe import ProbeConfig

CONFIG = ProbeConfig(callable="tests:nothing", num_bootstraps=200)
CLASSES = ("boot", "bag")


def test_a_weakness_that_the_other_shares_holds_and_one_that_it_does_not_share_does_not() -> None:
    first = _pairs({"snow": 0.2, "sand": 0.3}, right=1.0, seed=0)
    other = _pairs({"snow": 0.2}, right=1.0, seed=1)
    table = weakness(first, CONFIG)
    result = transfer(table, first, other, CONFIG)
    assert [cell.key for cell in result.cells] == [cell.key for cell in table.cells if cell.significant]
    holds = {cell.after: cell.significant for cell in result.cells if cell.level == "kind, after"}
    assert holds == {"snow": True, "sand": False}
    content = result.to_json()
    rows = content["cells"]
    assert isinstance(rows, list)
    snow = next(row for row in rows if isinstance(row, dict) and row["after"] == "snow" and row["class_name"] is None)
    assert isinstance(snow, dict)
    assert snow["drop_low"] > 0.4
    assert content["num_significant"] == sum(cell.significant for cell in result.cells) < len(result.cells)


def test_classifiers_that_fail_by_themselves_share_what_chance_gives() -> None:
    shared = shared_flips(_pairs({"snow": 0.5, "sand": 0.5}, seed=0), _pairs({}, right=0.7, seed=1), CONFIG)
    assert shared.expected.value == pytest.approx(0.3, abs=0.05)
    assert shared.share.low < shared.expected.value < shared.share.high


def test_classifiers_that_fail_at_the_same_pictures_share_more_than_chance() -> None:
    pairs = _pairs({"snow": 0.5, "sand": 0.5}, seed=0)
    shared = shared_flips(pairs, pairs, CONFIG)
    assert shared.share.value == 1
    assert shared.expected.high < 0.6 < shared.share.low
    assert shared.n_flips == int((1 - pairs.right_edit)[pairs.right_unedited > 0].sum())


def test_a_classifier_that_never_flips_has_nothing_to_share() -> None:
    pairs = _pairs({}, right=1.0, seed=0)
    shared = shared_flips(pairs, pairs, CONFIG)
    assert math.isnan(shared.share.value)
    assert as_json(shared)["share"] is None


def _pairs(chances: dict[str, float], *, right: float = 0.95, seed: int) -> Pairs:
    """Return 200 sources with placebo and edits to three values, right with the chance of the value, or `right`."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(200):
        key, label = f"s{number}", number % 2

        def row(name: str, role: str, after: str | None, is_right: bool, key: str = key, label: int = label) -> None:
            rows.append(
                {
                    "key": name,
                    "source_key": key,
                    "split_key": key,
                    "role": role,
                    "split": "train",
                    "label": label,
                    "class_name": CLASSES[label],
                    "edit_kind": after and "background",
                    "edit_before": after and "grass",
                    "edit_after": after,
                    "edit_severity": 1.0,
                    "edit_strategy": "",
                    "edit_steered": False,
                    "accepted": True,
                    "prediction": label if is_right else 1 - label,
                    "p_label": 0.9 if is_right else 0.1,
                }
            )

        row(key, "source", None, True)
        row(f"{key}-0", "placebo", "same", True)
        for after in ("snow", "sand", "gravel"):
            row(f"{key}-{after}", "counterfactual", after, bool(generator.uniform() < chances.get(after, right)))
    return read_pairs(pa.Table.from_pylist(rows))
