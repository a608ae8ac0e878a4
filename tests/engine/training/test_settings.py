"""The settings of a training: what decides its result decides its name, and nothing else does."""

import pickle
from pathlib import Path

import pytest
from finetune_run import committed_run, run_file, save_images

from engine.errors import RunFileError
from engine.run.directory import WEAKNESS, RunDirectory
from engine.runfile.probe import ProbeConfig
from engine.runfile.run import RunFile
from engine.training.settings import resolve_settings


@pytest.fixture
def run(tmp_path: Path) -> RunFile:
    save_images(tmp_path / "images")
    return run_file(tmp_path / "images", tmp_path / "patient")


@pytest.fixture
def rundir(tmp_path: Path, run: RunFile) -> RunDirectory:
    return committed_run(tmp_path / "run", run)


def changed(run: RunFile, **reinforce: object) -> RunFile:
    return run.model_copy(update={"reinforce": run.reinforce.model_copy(update=reinforce)})


def test_what_decides_the_result_gives_a_training_another_name(run: RunFile, rundir: RunDirectory) -> None:
    name = resolve_settings(run, rundir, "digest").name
    assert resolve_settings(changed(run, max_failures=9, num_workers=2), rundir, "digest").name == name
    assert resolve_settings(changed(run, learning_rate=0.5), rundir, "digest").name != name
    assert resolve_settings(run, rundir, "another digest").name != name
    assert resolve_settings(run, rundir, "digest", follow=True).name != name
    weak = {"class_name": "blob", "kind": "background", "after": "blue", "tested_drop": 0.9}
    rundir.write_json(WEAKNESS, {"cells": [weak], "by_kind": []})
    assert resolve_settings(run, rundir, "digest").name != name


def test_the_settings_are_complete_and_go_to_workers_as_they_are(run: RunFile, rundir: RunDirectory) -> None:
    settings = resolve_settings(changed(run, num_workers=2), rundir, "digest")
    assert settings.deepspeed["train_micro_batch_size_per_gpu"] == run.reinforce.batch_size // 2
    assert settings.classes == rundir.info.classes
    assert settings.arms == tuple(run.reinforce.arms)
    assert sum(shard.train for shard in settings.contents) > 0
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_who_follows_knows_no_shard_yet_and_trains_an_arm_with_edits_first(run: RunFile, rundir: RunDirectory) -> None:
    settings = resolve_settings(run, rundir, "digest", follow=True)
    assert (settings.contents, settings.harm) == ((), {})
    assert settings.arms == ("reinforced", "real_only")


def test_without_accepted_edits_no_arm_is_left(tmp_path: Path, run: RunFile) -> None:
    assert resolve_settings(run, committed_run(tmp_path / "bare", run, edits=0), "digest").arms == ()


def test_a_black_box_has_no_weights_to_train(run: RunFile, rundir: RunDirectory) -> None:
    blind = run.model_copy(update={"probe": ProbeConfig(callable="some.module:function")})
    with pytest.raises(RunFileError, match=r"set probe\.model"):
        resolve_settings(blind, rundir, "digest")
