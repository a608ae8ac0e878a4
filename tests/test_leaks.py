"""Test data must not be trained on: the trainer refuses it by shard and key."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from finetune_run import (
    committed_run,
    plant,
    run_file,
    save_images,
    save_resnet,
    source_of_test_split,
    training_session,
)

from cluster import classifiers
from cluster.arms import arm_refs, evaluate_arms
from cluster.classifiers import ask
from cluster.cli import main
from cluster.generate import read_planned
from cluster.probe import questions
from cluster.reinforce import reinforce_run
from engine.errors import LeakError
from engine.inspection import inspect_shards
from engine.recipe import inspect_shard
from engine.reinforcing import ReinforceConfig
from engine.rundir import RunDirectory
from engine.runfile import RunFile
from engine.verify import verify_run


@pytest.fixture
def run(tmp_path: Path) -> RunFile:
    save_images(tmp_path / "images")
    return run_file(tmp_path / "images", tmp_path / "patient")


@pytest.fixture
def rundir(tmp_path: Path, run: RunFile) -> RunDirectory:
    return committed_run(tmp_path / "run", run)


def test_a_clean_run_is_counted_by_split(run: RunFile, rundir: RunDirectory) -> None:
    contents = inspect_shards(run, rundir)
    edited = rundir.plan().counts(edited=True)
    assert sum(shard.train for shard in contents) == 2 * sum(edited["train"].values())
    assert sum(shard.validation for shard in contents) == 2 * sum(edited["validation"].values())


def test_a_test_source_in_a_shard_is_refused_by_shard_and_key(run: RunFile, rundir: RunDirectory) -> None:
    leaked = source_of_test_split(run, rundir)
    plant(rundir, 1, leaked)
    with pytest.raises(LeakError, match=f"shard 000001, sample {leaked.key}: its source is of the test split"):
        inspect_shards(run, rundir)


def test_a_test_source_that_says_it_is_train_is_refused_too(run: RunFile, rundir: RunDirectory) -> None:
    leaked = source_of_test_split(run, rundir)
    disguised = replace(leaked, key=f"{leaked.key}-cf0", role="counterfactual", split="train")
    plant(rundir, 0, disguised)
    with pytest.raises(LeakError, match=rf"shard 000000, sample {disguised.key}.*recorded train, by its hash test"):
        inspect_shards(run, rundir)


def test_a_validation_source_among_train_is_refused(run: RunFile, rundir: RunDirectory) -> None:
    sample = rundir.read_shard(0)[0]
    with pytest.raises(LeakError, match="recorded as train, but by its hash its source is of the validation split"):
        inspect_shard(0, [sample], {sample.source_key: "validation"}, ReinforceConfig())


def test_a_source_of_another_plan_is_refused(rundir: RunDirectory) -> None:
    with pytest.raises(LeakError, match="its source is not in the plan"):
        inspect_shard(0, rundir.read_shard(0)[:1], {}, ReinforceConfig())


def test_rejected_samples_and_placebos_are_not_counted(rundir: RunDirectory) -> None:
    first = rundir.read_shard(0)[0]
    edit = next(sample for sample in rundir.read_shard(0) if sample.role == "counterfactual")
    assert edit.verdict is not None
    refused = replace(edit, verdict=replace(edit.verdict, accepted=False))
    contents = inspect_shard(
        0, [first, refused, replace(edit, role="placebo")], {first.key: "train"}, ReinforceConfig()
    )
    assert contents.train == 0


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with training_session(1):
        yield


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_refuses_a_planted_leak_and_names_shard_and_key(
    run: RunFile, rundir: RunDirectory, cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    leaked = source_of_test_split(run, rundir)
    plant(rundir, 2, leaked)
    # To everything else the shard is as good as the others.
    assert verify_run(rundir) == []
    assert main(["reinforce", rundir.storage.root]) == 2
    said = capsys.readouterr().err
    assert f"counterforge: shard 000002, sample {leaked.key}: its source is of the test split" in said
    assert "nothing was trained: delete the shard and its marker" in said
    assert not rundir.exists("reinforce.json")
    assert not list(Path(rundir.storage.root).glob("models/*"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_only_the_evaluation_opens_the_images_of_the_test_split(
    tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "images"
    save_images(images)
    save_resnet(tmp_path / "patient")
    run = run_file(images, tmp_path / "patient", num_steps=2, eval_every=2)
    rundir = committed_run(tmp_path / "run", run)
    tested = {images / item.locator for item, _ in rundir.plan().of_split("test")}
    # The kernel notes a read of a file that was not read for two days.
    for path in images.rglob("*.png"):
        os.utime(path, (path.stat().st_mtime - 2 * 86_400, path.stat().st_mtime))
    unread = {path: path.stat().st_atime for path in images.rglob("*.png")}

    def opened() -> set[Path]:
        return {path for path, before in unread.items() if path.stat().st_atime != before}

    plan = rundir.plan()
    for index in range(plan.num_shards):
        read_planned(run.data.train, index, plan.shard(index))
    if not opened():
        pytest.skip("this file system does not note when a file is read")
    reinforce_run(run, rundir)
    # Asked in this process, which opens what actors open and takes less time to start.
    monkeypatch.setattr(classifiers, "in_session", lambda: False)
    refs = arm_refs(run, rundir).values()
    ask([question for ref in refs for question in questions(ref, ref.digest(), rundir)], "probe")
    assert opened() == set(unread) - tested
    evaluate_arms(run, rundir)
    assert opened() == set(unread)
