"""Figures have one form: written, read, printed, and filled into Markdown."""

from pathlib import Path

import pytest

from engine.errors import RunError
from engine.figures.__main__ import main
from engine.figures.figures import Figure, crossed, fill, machine, read_figures, share, table, write_figures

FIGURES = [
    share("editor.background", 950, 1000, 0.9),
    share("editor.placebo", 40, 1000, 0.03, better="lower"),
    Figure(name="writer.rate", value=1234.5, n=3, unit="MB/s"),
]
TEXT = """# A card

before
<!-- figures zoo-eval: editor.* -->
| old | table |
<!-- /figures -->
after
"""


def test_a_share_has_an_interval_and_knows_whether_its_target_is_met() -> None:
    background, placebo, rate = FIGURES
    assert (background.value, background.met) == (0.95, True)
    assert background.low is not None
    assert background.high is not None
    assert 0.93 < background.low < 0.95 < background.high < 0.97
    assert (placebo.met, rate.met) == (False, None)


def test_what_is_written_is_read_again_with_its_machine(tmp_path: Path) -> None:
    write_figures("zoo-eval", FIGURES, tmp_path)
    figures, on = read_figures("zoo-eval", tmp_path)
    assert figures == FIGURES
    assert on == machine()
    assert int(str(on["cores"])) >= 1
    assert "torch" in dict(on["versions"])  # type: ignore[call-overload]


def test_a_table_says_value_interval_target_and_whether_it_is_met() -> None:
    _, _, background, placebo, rate = table(FIGURES).splitlines()
    assert [cell.strip() for cell in background.split("|")[1:-1]][:5] == [
        *("editor.background", "0.950", "0.935 to 0.962", "\u2265 0.900", "yes")
    ]
    assert "| \u2264 0.030 | no " in placebo
    assert "1,234.5 MB/s" in rate


def test_a_crossed_table_has_a_row_for_each_subject_and_a_column_for_each_measure(tmp_path: Path) -> None:
    figures = [
        Figure(name="arms.accuracy.patient", value=0.25),
        Figure(name="arms.accuracy.cured", value=0.75, low=0.7, high=0.8),
        Figure(name="arms.worst_group.patient", value=0.0),
    ]
    head, _, *rows = crossed(figures, ["arms.accuracy", "arms.worst_group"]).splitlines()
    parted = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (head, *rows)]
    assert parted == [
        ["", "accuracy", "worst group"],
        ["patient", "0.250", "0.000"],
        ["cured", "0.750 (0.700 to 0.800)", "-"],
    ]
    write_figures("arms", figures, tmp_path)
    text = "<!-- crossed arms: arms.accuracy -->\nold\n<!-- /crossed -->\nafter\n"
    filled = fill(text, tmp_path)
    assert "| cured " in filled
    assert filled.endswith("<!-- /crossed -->\nafter\n")
    with pytest.raises(RunError, match=r"no figure 'arms.loss\.\*' was measured"):
        crossed(figures, ["arms.loss"])


def test_filling_replaces_the_block_and_nothing_else(tmp_path: Path) -> None:
    write_figures("zoo-eval", FIGURES, tmp_path)
    filled = fill(TEXT, tmp_path)
    assert "| old | table |" not in filled
    assert filled.startswith("# A card\n\nbefore\n<!-- figures zoo-eval: editor.* -->\n| figure ")
    assert filled.endswith("<!-- /figures -->\nafter\n")
    assert "editor.placebo" in filled
    assert "writer.rate" not in filled
    assert fill(filled, tmp_path) == filled
    assert max(map(len, filled.splitlines())) <= 120


def test_the_command_fills_files_and_names_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = tmp_path / "README.md"
    card.write_text(TEXT)
    monkeypatch.setattr("sys.argv", ["figures", str(card), "--figures", str(tmp_path)])
    with pytest.raises(RunError, match="run `make zoo-eval` first"):
        read_figures("zoo-eval", tmp_path)
    assert main() == 0
    assert "left as it was, not measured here: make zoo-eval" in capsys.readouterr().out
    assert card.read_text() == TEXT
    write_figures("zoo-eval", FIGURES[2:], tmp_path)
    assert main() == 1
    assert "no figure 'editor.*'" in capsys.readouterr().err
    write_figures("zoo-eval", FIGURES, tmp_path)
    assert main() == 0
    assert "editor.background" in card.read_text()
    (tmp_path / "zoo-eval.json").write_text("[")
    with pytest.raises(RunError, match=r"no file of figures .* run `make zoo-eval` again"):
        read_figures("zoo-eval", tmp_path)
