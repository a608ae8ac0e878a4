import json
from pathlib import Path

import pytest

from actors.editor.slots.tuning import remembered
from engine.errors import ModelError

ABOUT = {"device": "a GPU", "rows": 8}


def never() -> str:
    raise AssertionError("measured again")


def test_what_was_measured_is_found_again_and_says_what_it_is_about(tmp_path: Path) -> None:
    assert remembered(tmp_path / "cache", "attention", ABOUT, lambda: "flash") == "flash"
    assert remembered(tmp_path / "cache", "attention", ABOUT, never) == "flash"
    (path,) = (tmp_path / "cache").iterdir()
    assert path.name.startswith("attention-")
    assert json.loads(path.read_text()) == {"question": "attention", "about": ABOUT, "answer": "flash"}


def test_another_machine_or_question_is_measured_for_itself(tmp_path: Path) -> None:
    remembered(tmp_path, "attention", ABOUT, lambda: "flash")
    assert remembered(tmp_path, "attention", {**ABOUT, "device": "another"}, lambda: "sdpa") == "sdpa"
    assert remembered(tmp_path, "unet-rows", ABOUT, lambda: 4) == 4


def test_of_two_that_measure_at_once_the_first_to_end_decides(tmp_path: Path) -> None:
    def slowly() -> str:
        remembered(tmp_path, "attention", ABOUT, lambda: "flash")
        return "xformers"

    assert remembered(tmp_path, "attention", ABOUT, slowly) == "flash"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_damaged_answer_is_named(tmp_path: Path) -> None:
    remembered(tmp_path, "attention", ABOUT, lambda: "flash")
    (path,) = tmp_path.iterdir()
    path.write_text("{")
    with pytest.raises(ModelError, match=f"{path.name} holds no answer .*: delete it"):
        remembered(tmp_path, "attention", ABOUT, never)
