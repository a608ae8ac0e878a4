"""The command line: what it prints, where, and its exit codes."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from repository import ROOT
from tint_runs import tint_run, write_images
from tiny_runs import tiny_plan, tiny_results

from cluster.cli.evaluate import result_lines
from cluster.cli.main import main
from engine.plan.plan import make_plan
from engine.plan.splits import SPLITS
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory
from engine.runfile.data import FolderSource, Splits
from engine.runfile.load import dump_run_file
from engine.runfile.probe import ProbeConfig

COMMANDS = (
    "run",
    "plan",
    "generate",
    "probe",
    "reinforce",
    "report",
    "select",
    "evaluate",
    "learn",
    "status",
    "verify",
    "show",
    "schema",
    "doctor",
    "watch-node",
)


@pytest.fixture
def half_done(tmp_path: Path) -> Path:
    """A run of a black box with one of its two shards done, and test images of its own."""
    run, plan = tiny_plan(tmp_path)
    test = FolderSource(path=str(write_images(tmp_path / "test", bad=0)))
    probe = ProbeConfig(callable="tiny_stages:always_first", min_sources=2)
    run = run.model_copy(update={"data": run.data.model_copy(update={"test": test}), "probe": probe})
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


@pytest.mark.parametrize("command", ["probe", "reinforce", "run"])
def test_an_attribute_that_no_image_has_is_refused_before_it_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """At any command that changes the run file, also at one that would not read the attribute yet."""
    images = write_images(tmp_path / "images", bad=0)
    run = tint_run(images)
    data = run.data.model_copy(update={"splits": Splits(train=0.6, validation=0.0, test=0.4)})
    run = run.model_copy(update={"data": data, "probe": run.probe.model_copy(update={"min_sources": 2})})
    out, run_file = tmp_path / "run", tmp_path / "run.yaml"
    RunDirectory.create(str(out), run, make_plan(run))
    run_file.write_text(dump_run_file(run))
    before = (out / "run.yaml").read_bytes()
    where = [str(run_file), "--out", str(out)] if command == "run" else [str(out)]
    assert "group_by asks for ['typo']" in fails([command, *where, "--set", "report.group_by=[typo]"], capsys)
    assert (out / "run.yaml").read_bytes() == before


@pytest.mark.parametrize("command", ["probe", "reinforce", "status", "show", "report", "verify", "retry", "select"])
def test_a_run_file_in_the_place_of_its_run_is_named(
    half_done: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    run_file = half_done / "run.yaml"
    said = fails([command, str(run_file)], capsys)
    folder = "RUN is the folder that `counterforge run` wrote, such as"
    assert said == f"counterforge: {run_file} is a run file; {folder} runs/tiny\n"
    # One that cannot be read has no name to give, and a file of a run lies in its folder.
    run_file.write_text("name: [")
    assert said.replace("tiny", "NAME") == fails([command, str(run_file)], capsys)
    inside = half_done / "run" / "done" / "000000.json"
    assert f"is a file; {folder} {half_done / 'run'}\n" in fails([command, str(inside)], capsys)


def test_plan_shows_splits_and_spends_nothing(half_done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(half_done.rglob("*"))
    assert main(["plan", str(half_done / "run.yaml"), "--out", str(half_done / "run")]) == 0
    printed = capsys.readouterr().out
    assert "problems" not in printed
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
    printed = capsys.readouterr().out
    assert said in printed
    assert "\nproblems\n  stages.mine.target: my_code.stages:Mine: no module 'my_code.stages' is found" in printed


def test_plan_finds_the_files_of_that_code_and_runs_none_of_it(
    half_done: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package lies beside the run file, where `run` would import it from."""
    monkeypatch.setattr("sys.path", sys.path[:])
    folder = half_done / "my_code" / "deep"
    folder.mkdir(parents=True)
    for path in (folder.parent / "__init__.py", folder / "__init__.py", folder / "stages.py"):
        path.write_text("raise SystemExit('ran')\nclass Mine: ...\n")
    (half_done / "guess.py").write_text("raise SystemExit('ran')\ndef guess(images): ...\n")
    stage = "{mine: {kind: plugin, target: my_code.deep.stages:Mine}, other: {kind: plugin, target: os.path:join}}"
    overrides = [f"stages={stage}", "probe={callable: guess:guess, min_sources: 2}"]
    arguments = [part for each in overrides for part in ("--set", each)]
    assert main(["plan", str(half_done / "run.yaml"), *arguments]) == 2
    said = capsys.readouterr().out
    assert f"stage 'mine' runs your code my_code.deep.stages:Mine, in {folder / 'stages.py'}\n" in said
    assert f"the probe runs your code guess:guess, in {half_done / 'guess.py'}; a black box" in said
    assert "my_code" not in sys.modules
    *_, title, problem = said.splitlines()
    assert (title, problem.partition(": ")[0]) == ("problems", "  stages.other.target")
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


def test_an_evaluation_shows_the_worst_group_first() -> None:
    share = {"n": 40, "correct": 30, "accuracy": 0.75, "low": 0.6, "high": 0.86}
    bad = share | {"class_name": "boot", "values": {"background": "snow"}, "accuracy": 0.1, "conflict": True}
    good = share | {"class_name": "coat", "values": {"background": "sand"}, "conflict": False}
    small = bad | {"n": 3, "correct": 0, "accuracy": 0.0, "values": {"background": "sea"}}
    content = share | {
        "groups": [good, bad, small],
        "classes": [{}, {}],
        "model_classes": 1000,
        "restricted": False,
        "num_other_answers": 12,
        "taken_in_order": None,
        "wrong_order": None,
        "group_by": ["background"],
        "min_n": 10,
        "worst_group": bad | {"num_groups": 2},
        "conflict": share,
        "aligned": None,
        "unreadable": {"empty_file": 2},
    }
    lines = result_lines(content)
    assert lines[0] == "accuracy        75.0 % [60.0, 86.0] of 40 images"
    assert lines[1].endswith("boot / snow, lowest of 2 groups")
    assert [line.split(" / ")[0].strip() for line in lines[4:6]] == ["boot", "coat"]
    assert lines[6:] == [
        "small groups     0.0 % [0.0, 56.1] of 3 images in 1 group of fewer than 10, which are not ranked; the worst: "
        "boot / sea 0 of 3",
        "classes        2 of the model's 1,000 are in the data, 12 answers are of others",
        "not read: 2 images, empty_file",
    ]
    one = content | {"restricted": True, "classes": [{}], "taken_in_order": ["boot", "coat"], "wrong_order": "look"}
    assert result_lines(one)[7:-1] == [
        "restricted     answers to the data's 1 of the model's 1,000 classes: with one class every answer is right",
        "outputs        taken in order: 0 as 'boot', 1 as 'coat'",
        "look at this   look",
    ]


def test_evaluate_scores_a_function_on_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write_images(tmp_path / "images", per_class=4, bad=1)
    assert main(["evaluate", "--model", "tiny_stages:always_first", "--data", str(images), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["n"], content["correct"], content["unreadable"]) == (7, 3, {"unreadable_image": 1})
    assert (content["taken_in_order"], content["model_classes"], content["restricted"]) == (["boot", "coat"], 2, False)
    shutil.rmtree(images / "coat")
    arguments = ["evaluate", "--model", "tiny_stages:always_first", "--data", str(images), "--classes", "coat, boot"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[0] == "accuracy         0.0 % [0.0, 56.1] of 3 images"
