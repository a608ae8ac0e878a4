"""Each kind's drop before and after a fine-tuning, on the same edits."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from engine.probe.before_after import EditDrop, edit_drops
from engine.probe.pairs import Pairs, read_pairs
from engine.runfile.fields import ModelConfig
from engine.runfile.probe import ProbeConfig

CONFIG = ProbeConfig(model=ModelConfig(name="any"), num_bootstraps=400)
VALUES = {"background": ("snow", "sand"), "colour": ("red", "blue")}


def pairs_of(is_right: Callable[[int, str, str], bool], num_sources: int = 100, num_sand: int = 5) -> Pairs:
    """Return one edit of each kind for each source; sources and placebos are right."""
    rows = []
    for source in range(num_sources):
        edits = {kind: values[source < num_sand] for kind, values in VALUES.items()}
        for role, kind, value in (
            ("source", "", ""),
            ("placebo", "", ""),
            *(("edit", *each) for each in edits.items()),
        ):
            is_edit = role == "edit"
            right = not is_edit or is_right(source, kind, value)
            rows.append(
                {
                    "key": f"{source}_{kind or role}", "source_key": f"{source}", "split_key": f"{source}",
                    "role": "counterfactual" if is_edit else role, "split": "validation", "label": 0,
                    "class_name": "boot", "edit_kind": kind, "edit_before": "", "edit_after": value,
                    "edit_severity": 1.0, "edit_strategy": "", "edit_steered": False, "accepted": True,
                    "prediction": 0 if right else 1, "p_label": 0.9 if right else 0.1,
                }
            )  # fmt: skip
    return read_pairs(pa.Table.from_pylist(rows))


def by_name(found: list[EditDrop]) -> dict[tuple[str, str | None], EditDrop]:
    return {(each.kind, each.value): each for each in found}


def test_a_cured_habit_and_the_one_that_it_made_are_told_apart() -> None:
    """Background: wrong on 60 of 100 before, on 10 after. Colour: on 5 before, on 25 after."""
    before = pairs_of(lambda source, kind, _: source >= (60 if kind == "background" else 5))
    after = pairs_of(lambda source, kind, _: source >= (10 if kind == "background" else 25))
    found = by_name(edit_drops(after, before, CONFIG))
    # Five sources have a sand background or a blue garment: too few for a row.
    assert set(found) == {("background", None), ("colour", None), ("background", "snow"), ("colour", "red")}
    background, colour = found["background", None], found["colour", None]
    assert background.change is not None
    assert colour.change is not None
    assert (background.drop.value, background.change.value) == pytest.approx((0.1, -0.5))
    assert (colour.drop.value, colour.change.value) == pytest.approx((0.25, 0.2))
    # 20 of 100 pairs changed, all to the worse: +- 1.96 * sqrt(.2 * .8 / 100).
    assert (colour.change.low, colour.change.high) == pytest.approx((0.12, 0.28), abs=0.03)
    assert background.change.high < -0.35
    assert (colour.n_sources, colour.n_edits) == (100, 100)


def test_the_interval_of_a_change_is_of_pairs_and_not_a_point_where_nothing_changed() -> None:
    same = pairs_of(lambda source, *_: source % 2 == 0)
    (change,) = (one.change for one in edit_drops(same, pairs_of(lambda source, *_: source % 2 == 0), CONFIG)[:1])
    assert change is not None
    assert change.value == 0
    # Unpaired, at accuracies of one half, it would be +- 14 points.
    assert -0.04 < change.low < 0 < change.high < 0.04


def test_the_interval_of_a_change_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        wrong, worse = rng.random(60) < 0.3, rng.random(60) < 0.2
        before = pairs_of(lambda source, *_, wrong=wrong: not wrong[source], 60, 0)
        after = pairs_of(lambda source, *_, wrong=wrong | worse: not wrong[source], 60, 0)
        change = by_name(edit_drops(after, before, CONFIG))["colour", None].change
        assert change is not None
        held += change.low <= 0.7 * 0.2 <= change.high
    assert held >= 90


def test_the_base_classifier_has_no_change_and_no_edits_give_no_rows() -> None:
    base = pairs_of(lambda source, *_: source >= 60)
    (first, *_) = edit_drops(base, base, CONFIG)
    assert first.change is None
    assert first.drop.value == pytest.approx(0.6)
    none = read_pairs(pa.Table.from_pylist([]))
    assert edit_drops(none, none, CONFIG) == []
