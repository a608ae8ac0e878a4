"""What the report says of the rounds: what was spent where, why, and what came of it."""

import json

import pyarrow as pa
import pytest

from engine.report.views.rounds import rounds_summary, rounds_view
from engine.rounds.allocation import Allocation, CellShare
from engine.runfile.run import RoundsConfig

CONFIG = RoundsConfig(count=2, floor=0.1, cap=0.25)
TRAINED = {
    "arms": {"patient": {"validation_edits_accuracy": 0.4}, "reinforced": {"validation_edits_accuracy": 0.9}}
}  # fmt: skip


def cell(value: str | None, share: float, limit: str | None = None, kind: str = "background") -> CellShare:
    return CellShare(
        class_name="boot", kind=kind, value=value, severity=1.0, share=share, weakness=0.41, num_probed=24,
        accept_rate=0.95, num_tried=60, gain=0.39, limit=limit,
    )  # fmt: skip


def allocation() -> Allocation:
    cells = (cell("snow", 0.25, "cap"), cell(None, 0.65), cell(None, 0.1, "floor", "colour"))
    return Allocation(
        number=2, plan="p", classifier="c", edits_accuracy=0.7, num_edits=120, budget=3, floor=0.1, cap=0.25,
        cells=cells,
    )  # fmt: skip


def candidates() -> pa.Table:
    """Round 1, shard 0, of validation sources: evenly; round 2, shard 1: background alone."""
    kinds = {0: ("background", "colour") * 2, 1: ("background",) * 3}
    return pa.Table.from_pylist(
        [
            {
                "shard": shard, "role": "counterfactual", "split": "train" if shard else "validation",
                "edit_kind": kind, "accepted": number > 0,
            }
            for shard, found in kinds.items()
            for number, kind in enumerate(found)
        ]
    )  # fmt: skip


def summary() -> list[dict[str, object]]:
    given = allocation()
    return rounds_summary({given.sha256: given}, {0: None, 1: given.sha256}, candidates(), TRAINED, "reinforced")


def test_each_round_has_what_it_spent_and_what_came_of_it() -> None:
    first, second = summary()
    assert (first["round"], first["edits"], first["accepted"], first["edits_accuracy_after"]) == (1, 4, 3, 0.7)
    assert first["by_kind"] == {"background": {"edits": 2, "accepted": 1}, "colour": {"edits": 2, "accepted": 2}}
    assert first["cells"] == []
    assert (second["round"], second["edits"], second["edits_accuracy_after"]) == (2, 3, 0.9)
    assert second["by_kind"] == {"background": {"edits": 3, "accepted": 2}}
    assert second["shares"] == pytest.approx({"background": 0.9, "colour": 0.1})
    assert [found["value"] for found in second["cells"]] == [None, "snow", None]
    json.dumps([first, second])


def test_a_run_of_one_round_says_nothing_of_rounds() -> None:
    assert rounds_summary({}, {0: None}, candidates(), TRAINED, "reinforced") == []
    assert rounds_view([], RoundsConfig(), None) is None


def test_the_page_says_why_a_cell_got_its_share() -> None:
    view = rounds_view(summary(), CONFIG, None)
    assert view is not None
    assert [value for _, value in view["accuracy"]] == ["70.0\u202f%", "90.0\u202f%"]
    assert "one value gets 25\u202f% at most" in view["sentence"]
    first, second = view["rounds"]
    assert first["spent"] == "4 edits, 3 accepted: 50\u202f% on background, 50\u202f% on colour"
    assert second["cells"][1] == {
        "edit": "boot: background to snow", "share": "25\u202f%", "weakness": "41\u202f% (24)",
        "accepted": "95\u202f% (60)", "gain": "39\u202f%", "limit": "held at the cap",
    }  # fmt: skip
    assert second["cells"][0]["edit"] == "boot: background to any other value"
    assert second["cells"][2]["limit"] == "lifted to the floor"


def test_a_round_that_is_not_made_yet_is_shown_as_such() -> None:
    given = allocation()
    rounds = rounds_summary({given.sha256: given}, {0: None}, candidates().slice(0, 4), None, "reinforced")
    view = rounds_view(rounds, CONFIG, None)
    assert view is not None
    assert view["rounds"][1]["spent"] == "0 edits, 0 accepted: not made yet"
    assert view["accuracy"][-1] == ("after round 2", "–")


def test_the_page_says_in_which_round_a_weakness_was_found() -> None:
    names = {"class_name": None, "kind": "background", "after": "snow"}
    cells = [
        names | {"found_in_round": 2, "e_value": 400.0, "n_sources": 30, "num_cells": 12},
        names | {"after": None, "class_name": "boot", "found_in_round": 1, "e_value": 250.0, "n_sources": 60},
    ]
    view = rounds_view(summary(), CONFIG, {"found_by_round": cells, "confidence": 0.95})
    assert view is not None
    assert view["found"]["sentence"].startswith(
        "Found so far: 2 of 12 cells, 1 since round 1, 1 since round 2, at a false discovery rate of 5\u202f%."
    )
    assert [row["edit"] for row in view["found"]["rows"]] == [
        "boot: background to any value",
        "any class: background to snow",
    ]
    assert view["found"]["rows"][1] == {
        "edit": "any class: background to snow", "round": 2, "e_value": "400", "n_sources": "30",
    }  # fmt: skip
