"""The command `select`, from labels to a written run: what it shows, what it writes, and what it refuses."""

from pathlib import Path

import pytest
from scored_runs import scored_run

from cluster.cli.main import main
from engine.run.directory import RunDirectory
from engine.selection.selection import read_scored

LOOSE = {"min_image": 0.2, "min_text": 0.1, "min_directional": 0.1}


@pytest.fixture
def run(tmp_path: Path) -> str:
    scored_run(tmp_path, **LOOSE)
    return str(tmp_path / "run")


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one message of a command that the user can mend."""
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("counterforge: ")
    assert "Traceback" not in printed
    return printed


def test_without_a_setting_it_shows_what_each_threshold_turns_down(
    run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["select", run]) == 0
    printed = capsys.readouterr().out
    assert "4 of 4 shards are done" in printed
    assert "thresholds: min_image 0.2, min_text 0.1, min_directional 0.1, consistency true" in printed
    line = next(line for line in printed.splitlines() if line.startswith("counterfactuals "))
    edits = [one for one in read_scored(RunDirectory.open(run)) if one.role == "counterfactual"]
    accepted = sum(one.verdict.accepted for one in edits)
    assert line.split()[1:3] == ["36", str(accepted)]
    low = [one for one in edits if "image" in one.verdict.reasons]
    alone = [one for one in low if len(one.verdict.reasons) == 1]
    fails_image = next(line for line in printed.splitlines() if line.startswith("  image < 0.2"))
    assert fails_image.split()[3:] == [str(len(low)), str(len(alone))]


def test_a_dry_run_shows_both_and_writes_nothing(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tmp_path.rglob("*"))
    new = str(tmp_path / "new")
    assert main(["select", run, "--set", "min_image=0.6", "--out", new, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "changed: min_image 0.2 -> 0.6" in printed
    assert "image < 0.2 -> 0.6" in printed
    assert "before" in printed
    assert sorted(tmp_path.rglob("*")) == before


def test_the_table_comes_before_the_result_and_the_result_verifies(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = str(tmp_path / "new")
    assert main(["select", run, "--set", "min_image=0.6", "--set", "consistency=false", "--out", new]) == 0
    printed = capsys.readouterr().out
    assert printed.index("counterfactuals") < printed.index("wrote 4/4 shards")
    assert f"counterforge probe {new}" in printed
    assert "counterforge generate" not in printed
    assert main(["verify", new]) == 0
    assert main(["select", new]) == 0
    assert "thresholds: min_image 0.6, min_text 0.1, min_directional 0.1, consistency false" in capsys.readouterr().out


def test_a_run_that_is_half_done_says_how_to_make_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scored_run(tmp_path, shards=[0], **LOOSE)
    new = str(tmp_path / "new")
    assert main(["select", str(tmp_path / "run"), "--set", "min_image=0.6", "--out", new]) == 0
    assert f"counterforge generate {new}/run.yaml --out {new}" in capsys.readouterr().out


def test_pixels_that_are_gone_are_named_before_and_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scored_run(tmp_path, keep_rejected="none", min_image=0.6, min_text=0.1, min_directional=0.1)
    run, new = str(tmp_path / "run"), str(tmp_path / "new")
    assert main(["select", run]) == 0
    assert "looser thresholds cannot" in capsys.readouterr().out
    assert main(["select", run, "--set", "min_image=0.2", "--out", new]) == 0
    printed = capsys.readouterr().out
    assert "edits pass these thresholds and stay rejected (pixels_not_kept)" in printed
    assert "edits pass but have no pixels (pixels_not_kept): delete the markers" in printed
    assert main(["verify", new]) == 0


def test_what_cannot_be_done_is_one_message(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = ["--out", str(tmp_path / "new")]
    setting = ["--set", "min_image=0.6"]
    assert "--dry-run" in fails(["select", run, *setting], capsys)
    assert "is the run itself" in fails(["select", run, *setting, "--out", run], capsys)
    assert "give others with --set" in fails(["select", run, "--set", "min_image=0.2", *new], capsys)
    assert "select changes what decides alone" in fails(["select", run, "--set", "seed=1", *new], capsys)
    assert "got 'much'" in fails(["select", run, "--set", "min_image=much", *new], capsys)
    assert "--out needs thresholds" in fails(["select", run, *new], capsys)
    assert "--precision goes with --calibrate" in fails(["select", run, "--precision", "0.9"], capsys)
    assert "between 0 and 1" in fails(["select", run, "--calibrate", "x.csv", "--precision", "95"], capsys)
    assert "writes nothing" in fails(["select", run, "--calibrate", "x.csv", *setting], capsys)
    assert "cannot read the labels in x.csv" in fails(["select", run, "--calibrate", "x.csv"], capsys)
    assert "run.json" in fails(["select", str(tmp_path / "images")], capsys)
    assert not (tmp_path / "new").exists()


def test_the_line_that_a_calibration_prints_can_be_given_as_it_is(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edits = [one for one in read_scored(RunDirectory.open(run)) if one.role == "counterfactual"]
    lines = [f"{one.key},{'good' if one.scores['image'] > 0.55 else 'bad'}" for one in edits]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["key,label", *lines, "nobody,good"]) + "\n")
    before = sorted(tmp_path.rglob("*"))
    assert main(["select", run, "--calibrate", str(table), "--precision", "0.9"]) == 0
    printed = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    assert "37 rows, 36 used" in printed
    assert "not used, the run has no scored edit of this key: nobody (line 38)" in printed
    assert "36 labels are few" in printed
    assert "min_image" in printed.split("changed:")[1].splitlines()[0]
    command = printed.splitlines()[-1].replace("NEW_FOLDER", str(tmp_path / "new")).split()
    assert command[:3] == ["counterforge", "select", run]
    assert main(command[1:]) == 0
    kept = [one for one in read_scored(RunDirectory.open(str(tmp_path / "new"))) if one.verdict.accepted]
    good = [one for one in kept if one.role == "counterfactual" and one.scores["image"] > 0.55]
    assert len(good) >= 0.9 * sum(one.role == "counterfactual" for one in kept)


def test_show_writes_the_labelling_page_and_says_what_is_on_it(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", run, "--label", "--num", "9"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("9 pairs: ")
    assert last == f"{run}/label.html"
    assert "Label edits of tiny" in Path(last).read_text(encoding="utf-8")
    out = tmp_path / "deep" / "page.html"
    assert main(["show", run, "--label", "--out", str(out)]) == 0
    assert out.is_file()
    assert main(["verify", run]) == 0


def test_show_explains_options_that_do_not_go_together(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--num goes with --label" in fails(["show", run, "--num", "3"], capsys)
    assert "is one shard" in fails(["show", f"{run}/shards/000000.tar", "--label"], capsys)
    assert "expected 1 or more" in fails(["show", run, "--label", "--num", "0"], capsys)


def test_a_label_page_of_pixels_that_were_not_kept_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scored_run(tmp_path, keep_rejected="metadata", **LOOSE)
    assert main(["show", str(tmp_path / "run"), "--label"]) == 0
    assert "cannot be labelled: thresholds can be tightened by these labels, not loosened" in " ".join(
        capsys.readouterr().out.split()
    )
