"""How often edits are drawn: by the harm of the rows that hold them."""

from typing import Any

from engine.runfile.arms import EditsConfig
from engine.runfile.reinforce import ReinforceConfig
from engine.training.contents import edit_draws, harm_of_cells

BY_WEAKNESS, EMPHASIS_4 = EditsConfig(by="weakness"), ReinforceConfig(emphasis=4)


def row(class_name: str | None, kind: str | None, after: str | None, drop: float | None) -> dict[str, Any]:
    return {"class_name": class_name, "kind": kind, "after": after, "tested_drop": drop}


WEAKNESS = {
    "cells": [
        row("cat", "background", "snow", 0.8),
        row("cat", "background", None, 0.4),
        row(None, "background", "grass", 0.2),
        row("dog", "background", "snow", None),
    ],
    "by_kind": [row(None, "background", None, 0.6), row(None, "colour", None, -0.1)],
}


def test_the_cell_s_own_row_decides_else_the_worse_of_its_class_and_its_value_and_no_edit_is_left_out() -> None:
    harm = harm_of_cells(
        WEAKNESS,
        [
            ("cat", "background", "snow"),
            ("cat", "background", "grass"),
            ("cat", "background", "sand"),
            ("dog", "background", "snow"),
            ("dog", "colour", "red"),
            ("dog", "weather", "fog"),
        ],
    )
    assert list(edit_draws(BY_WEAKNESS, EMPHASIS_4, harm).values()) == [4, 2, 2, 3, 1, 1]
    assert set(edit_draws(EditsConfig(by="alike"), EMPHASIS_4, harm).values()) == {1}


def test_without_a_probe_or_without_harm_every_edit_is_drawn_once() -> None:
    cells = [("cat", "background", "snow"), ("dog", "colour", "red")]
    assert set(edit_draws(BY_WEAKNESS, EMPHASIS_4, harm_of_cells(None, cells)).values()) == {1}
    harmless = {"cells": [], "by_kind": [row(None, "background", None, -0.2)]}
    assert set(edit_draws(BY_WEAKNESS, EMPHASIS_4, harm_of_cells(harmless, cells)).values()) == {1}
