"""The command line: what it prints, where, and its exit codes."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from repository import ROOT
from tint_runs import write_images
from tiny_runs import tiny_plan, tiny_results

from cluster.cli.evaluate import parse_source, result_lines
from cluster.cli.main import main
from engine.errors import SourceError
from engine.plan.splits import SPLITS
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory
from engine.runfile.data import FolderSource, HuggingFaceSource, TableSource, TarSource, WardrobeSource
from engine.runfile.load import dump_run_file

COMMANDS = (
    "run",
    "plan",
    "generate",
    "probe",
    "reinforce",
    "report",
    "select",
    "evaluate",
    "status",
    "verify",
    "show",
    "schema",
    "doctor",
    "watch-node",
)


@pytest.fixture
def half_done(tmp_path: Path) -> Path:
    """A run with one of its two shards done."""
    run, plan = tiny_plan(tmp_path)
    rundir = RunDirectory.create(str(tmp_path / "run"), run, plan)
    commit_shard(rundir, 0, plan.keys(0), tiny_results(plan, 0), {"captioner": 1.5})
    (tmp_path / "run.yaml").write_text(dump_run_file(run))
    return tmp_path


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """Return the one message of a command that fails."""
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    assert printed.err.startswith("counterforge: ")
    return printed.err


def test_help_comes_at_once() -> None:
    # Compared with an interpreter that does nothing, so that a busy machine does not matter.
    def seconds(*arguments: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
        return time.perf_counter() - start

    ours = min(seconds("-m", "cluster.cli.main", "--help") for _ in range(3))
    nothing = min(seconds("-c", "import argparse, logging, pathlib") for _ in range(3))
    assert ours < nothing + 0.5 or ours < 6 * nothing


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_teaches_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"counterforge {command}" in capsys.readouterr().out.split("examples:")[1]


def test_a_mistake_in_the_arguments_is_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run"])
    assert caught.value.code == 2
    assert "CONFIG" in capsys.readouterr().err


def test_what_is_wrong_with_the_input_is_one_message(half_done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_file = str(half_done / "run.yaml")
    assert "nowhere.yaml" in fails(["run", "nowhere.yaml"], capsys)
    assert "captioner" in fails(["plan", run_file, "--set", "stages.captioner.steps=3"], capsys)
    assert "run.json" in fails(["status", str(half_done / "images")], capsys)
    assert "another plan" in fails(["generate", run_file, "--out", str(half_done / "run"), "--set", "seed=9"], capsys)
    assert "stages.captioner asks for 64 GPUs" in fails(
        ["generate", run_file, "--out", str(half_done / "gpu"), "--set", "stages.captioner.placement.num_gpus=64"],
        capsys,
    )
    shutil.rmtree(half_done / "images" / "boot")
    (half_done / "images" / "boot").mkdir()
    assert "boot" in fails(["plan", run_file], capsys)
    shutil.rmtree(half_done / "images")
    assert "not found" in fails(["plan", run_file], capsys)


def test_plan_shows_splits_and_spends_nothing(half_done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(half_done.rglob("*"))
    assert main(["plan", str(half_done / "run.yaml"), "--out", str(half_done / "run")]) == 2  # no test image
    printed = capsys.readouterr().out
    assert "boot" in printed
    assert "validation" in printed
    assert "1 of 2 shards are done" in printed
    plan = RunDirectory.open(str(half_done / "run")).plan()
    pairs = [(sum(plan.counts()[split].values()), sum(plan.counts(edited=True)[split].values())) for split in SPLITS]
    (row,) = [line.split() for line in printed.splitlines() if line.startswith("all classes")]
    assert row[2:] == [f"{number:,}" for pair in pairs for number in pair]
    assert sorted(half_done.rglob("*")) == before


def test_plan_names_the_users_own_code(half_done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = "{mine: {kind: plugin, target: my_code.stages:Mine}}"
    assert main(["plan", str(half_done / "run.yaml"), "--set", f"stages={stage}"]) == 2
    said = "plugin: stage 'mine' runs your code my_code.stages:Mine, but no module 'my_code.stages' is found from here"
    assert said in capsys.readouterr().out


def test_plan_finds_the_files_of_that_code_and_runs_none_of_it(
    half_done: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package lies beside the run file, where `run` would import it from."""
    monkeypatch.setattr("sys.path", sys.path[:])
    folder = half_done / "my_code" / "deep"
    folder.mkdir(parents=True)
    for path in (folder.parent / "__init__.py", folder / "__init__.py", folder / "stages.py"):
        path.write_text("raise SystemExit('ran')")
    (half_done / "guess.py").write_text("raise SystemExit('ran')")
    stage = "{mine: {kind: plugin, target: my_code.deep.stages:Mine}, other: {kind: plugin, target: os.path:join}}"
    overrides = [f"stages={stage}", "probe={callable: guess:guess}"]
    arguments = [part for each in overrides for part in ("--set", each)]
    assert main(["plan", str(half_done / "run.yaml"), *arguments]) == 2  # no test image
    said = capsys.readouterr().out
    assert f"stage 'mine' runs your code my_code.deep.stages:Mine, in {folder / 'stages.py'}\n" in said
    assert f"the probe runs your code guess:guess, in {half_done / 'guess.py'}; a black box" in said
    assert "my_code" not in sys.modules
    # A name within a module that is no package is not one that can be found.
    assert "os.path:join, but no module 'os.path' is found from here" in said


def test_status_reads_markers_alone(half_done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(half_done / "run" / "shards")
    assert main(["status", str(half_done / "run")]) == 0
    assert "1/2 shards, 3/6 sources, accepted 3, rejected 3, not processed 3" in capsys.readouterr().out
    assert main(["status", str(half_done / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["accepted"] == 3


def test_verify_tells_good_bytes_from_changed_ones(half_done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(half_done / "run")]) == 0
    assert "1 of 2 shards are done, all files are as their markers say" in capsys.readouterr().out
    tar = half_done / "run" / "shards" / "000000.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    assert main(["verify", str(half_done / "run")]) == 1
    said = capsys.readouterr()
    assert "shards/000000.tar: has BLAKE3" in said.out
    assert "verify RUN --redo" in said.err
    assert (half_done / "run/done/000000.json").exists()
    assert main(["verify", str(half_done / "run"), "--redo"]) == 1
    assert "`counterforge run` makes them again" in capsys.readouterr().err
    assert not (half_done / "run/done/000000.json").exists()


def test_show_writes_a_picture_and_says_where(half_done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(half_done / "run"), "--rows", "2"]) == 0
    assert capsys.readouterr().out.strip() == str(half_done / "run" / "contact_sheet.png")
    out = half_done / "new" / "sheet.png"
    assert main(["show", str(half_done / "run" / "shards" / "000000.tar"), "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")


def test_schema_is_json_and_describes_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"EditorConfig", "VerifierConfig", "PluginConfig"} <= schema["$defs"].keys()


def test_sources_are_known_by_their_form(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", per_class=1)
    assert parse_source(str(images)) == FolderSource(path=str(images))
    table = tmp_path / "birds.csv"
    table.write_text("path,label,caption,habitat\n")
    assert parse_source(str(table)) == TableSource(path=str(table), attributes=("habitat",))
    lines = tmp_path / "birds.jsonl"
    lines.write_text('{"path": "a.jpg", "label": "b", "sex": "f"}\n')
    assert parse_source(str(lines)) == TableSource(path=str(lines), attributes=("sex",))
    tars = tmp_path / "tars"
    tars.mkdir()
    (tars / "0.tar").touch()
    assert parse_source(str(tars)) == TarSource(path=str(tars))
    assert parse_source(str(tars / "0.tar")) == TarSource(path=str(tars / "0.tar"))
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "state.json").touch()
    assert parse_source(str(saved)) == HuggingFaceSource(path=str(saved))
    assert parse_source("wardrobe:heldout") == WardrobeSource(split="heldout")
    assert parse_source("wardrobe:heldout:0.95:200") == WardrobeSource(split="heldout", correlation=0.95, count=200)


@pytest.mark.parametrize("text", ["wardrobe:test", "wardrobe:heldout:2", "wardrobe:heldout:much", "nowhere", __file__])
def test_a_source_that_is_none_is_explained(text: str) -> None:
    with pytest.raises(SourceError, match=r"--data .*: "):
        parse_source(text)


def test_an_evaluation_shows_the_worst_group_first() -> None:
    share = {"n": 40, "correct": 30, "accuracy": 0.75, "low": 0.6, "high": 0.86}
    bad = share | {"class_name": "boot", "values": {"background": "snow"}, "accuracy": 0.1, "conflict": True}
    good = share | {"class_name": "coat", "values": {"background": "sand"}, "conflict": False}
    content = share | {
        "groups": [good, bad],
        "group_by": ["background"],
        "min_n": 10,
        "worst_group": bad,
        "conflict": share,
        "aligned": None,
        "unreadable": {"empty_file": 2},
    }
    lines = result_lines(content)
    assert lines[0] == "accuracy        75.0 % [60.0, 86.0] of 40 images"
    assert lines[1].endswith("boot / snow")
    assert [line.split(" / ")[0].strip() for line in lines[4:6]] == ["boot", "coat"]
    assert lines[-1] == "not read: 2 images, empty_file"


def test_evaluate_scores_a_function_on_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write_images(tmp_path / "images", per_class=4, bad=1)
    assert main(["evaluate", "--model", "tiny_stages:always_first", "--data", str(images), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["n"], content["correct"], content["unreadable"]) == (7, 3, {"unreadable_image": 1})
