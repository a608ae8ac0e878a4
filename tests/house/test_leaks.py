"""Test data must not be trained on: the trainer refuses it by shard and key."""

from dataclasses import replace
from pathlib import Path

import pytest
from finetune_run import committed_run, plant, run_file, save_images, source_of_test_split

from engine.errors import LeakError
from engine.run.directory import RunDirectory
from engine.runfile.reinforce import ReinforceConfig
from engine.runfile.run import RunFile
from engine.training.contents import ShardContents, inspect_shard, inspect_shards, source_splits


@pytest.fixture
def run(tmp_path: Path) -> RunFile:
    save_images(tmp_path / "images")
    return run_file(tmp_path / "images", tmp_path / "patient")


@pytest.fixture
def rundir(tmp_path: Path, run: RunFile) -> RunDirectory:
    return committed_run(tmp_path / "run", run)


def inspect(run: RunFile, rundir: RunDirectory) -> tuple[ShardContents, ...]:
    return inspect_shards(rundir, run.reinforce, source_splits(rundir.plan(), run.data.splits, run.seed))


def test_a_clean_run_is_counted_by_split(run: RunFile, rundir: RunDirectory) -> None:
    contents = inspect(run, rundir)
    edited = rundir.plan().counts(edited=True)
    assert sum(shard.train for shard in contents) == 2 * sum(edited["train"].values())
    assert sum(shard.validation for shard in contents) == 2 * sum(edited["validation"].values())


def test_a_test_source_in_a_shard_is_refused_by_shard_and_key(run: RunFile, rundir: RunDirectory) -> None:
    leaked = source_of_test_split(run, rundir)
    plant(rundir, 1, leaked)
    with pytest.raises(LeakError, match=f"shard 000001, sample {leaked.key}: its source is of the test split"):
        inspect(run, rundir)


def test_a_test_source_that_says_it_is_train_is_refused_too(run: RunFile, rundir: RunDirectory) -> None:
    leaked = source_of_test_split(run, rundir)
    disguised = replace(leaked, key=f"{leaked.key}-cf0", role="counterfactual", split="train")
    plant(rundir, 0, disguised)
    with pytest.raises(LeakError, match=rf"shard 000000, sample {disguised.key}.*recorded train, by its hash test"):
        inspect(run, rundir)


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
