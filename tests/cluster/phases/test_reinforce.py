"""Fine-tuning for real: DeepSpeed under Ray Train, killed and resumed, on the CPU."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from finetune_run import (
    CLASSES,
    PHRASES,
    committed_run,
    plant,
    run_file,
    save_images,
    save_resnet,
    save_vit,
    source_of_test_split,
    training_session,
)
from repository import ROOT

from actors.classifier.classifier import Classifier
from actors.finetune.stream import Place
from cluster.cli.main import main
from cluster.phases import classifiers, reinforce
from cluster.phases.arms import arm_refs, evaluate_arms
from cluster.phases.classifiers import ask
from cluster.phases.generate import read_planned
from cluster.phases.probe import questions
from cluster.phases.reinforce import reinforce_run
from engine.audit.files import verify_run
from engine.errors import EngineError, RunError, RunFileError
from engine.run.directory import WEAKNESS, RunDirectory
from engine.runfile.fields import ModelConfig
from engine.runfile.probe import ProbeConfig
from engine.runfile.run import RunFile
from engine.training.result import TrainOutput
from engine.training.settings import TrainSettings
from tests.benchmarks.large import CASES, ZERO_3, save_classifier

pytestmark = pytest.mark.timeout(900)
STEPS = {"num_steps": 64, "eval_every": 16, "first_layer_rate": 0.5, "contrast": 0.1, "worst_group": 0.02}
# A busy machine of two cores needs minutes for what takes seconds alone.
WAIT_S = 600


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reinforce")
    save_images(folder / "images", per_class=60)
    save_resnet(folder / "patient")
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with training_session(2):
        yield


def make(folder: Path, name: str, model: str = "patient", **settings: object) -> tuple[RunFile, RunDirectory]:
    run = run_file(folder / "images", folder / model, **settings)
    return run, committed_run(folder / name, run)


@pytest.fixture(scope="module")
def committed(folder: Path) -> tuple[RunFile, RunDirectory]:
    save_images(folder / "own", per_class=60)
    run = run_file(folder / "own", folder / "patient", **STEPS)
    return run, committed_run(folder / "whole", run)


@pytest.fixture(scope="module")
def unread(folder: Path, committed: tuple[RunFile, RunDirectory]) -> dict[Path, float]:
    """Images whose next read the kernel notes, as none was read for two days, with the time of their last one."""
    for path in (folder / "own").rglob("*.png"):
        os.utime(path, (path.stat().st_mtime - 2 * 86_400, path.stat().st_mtime))
    return {path: path.stat().st_atime for path in (folder / "own").rglob("*.png")}


@pytest.fixture(scope="module")
def whole(
    cluster: None, committed: tuple[RunFile, RunDirectory], unread: dict[Path, float]
) -> tuple[RunFile, RunDirectory, dict]:
    """One training from beginning to end, the reference for those that are killed."""
    run, rundir = committed
    plan = rundir.plan()
    for index in range(plan.num_shards):
        read_planned(run.data.train, index, plan.shard(index))
    return run, rundir, reinforce_run(run, rundir)


def history(result: dict) -> dict:
    """Return everything of a result that must not depend on time, machine or interruptions."""
    arms = {name: dict(arm) for name, arm in result["arms"].items()}
    for name in ("real_only", "reinforced"):
        arms[name]["history"] = [dict(line, images_per_second=None) for line in arms[name]["history"]]
    return arms


def lines(rundir: RunDirectory) -> list[dict]:
    found = list(rundir.storage.local_path("checkpoints").glob("*/history.json"))
    return json.loads(found[0].read_text()) if found else []


def wait_for_lines(rundir: RunDirectory, count: int) -> list[dict]:
    """Wait until `count` checkpoints were reported; Ray Train then has at least the last but two."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if len(found := lines(rundir)) >= count:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{len(lines(rundir))} of {count} checkpoints after {WAIT_S} s")


@contextmanager
def killing_workers(rundir: RunDirectory, count: int, before: list[dict]) -> Iterator[None]:
    """Kill the training workers after `count` checkpoints, which are added to `before`."""

    def kill() -> None:
        before.extend(wait_for_lines(rundir, count))
        for child in psutil.Process().children(recursive=True):
            if "RayTrainWorker" in " ".join(child.cmdline()):
                os.kill(child.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    yield
    thread.join()


def check_saved(rundir: RunDirectory, arm: dict, phrases: Sequence[str] = PHRASES) -> None:
    """Ask the model that an arm saved about the edits on which it was scored."""
    saved = ModelConfig(name=str(rundir.storage.local_path(arm["model"])))
    classifier = Classifier(ProbeConfig(model=saved), CLASSES, offline=True)
    samples = [sample for index in rundir.done() for sample in rundir.read_shard(index) if sample.edit is not None]
    edits = [sample for sample in samples if sample.split == "validation" and sample.edit.after in phrases]
    found = classifier.predict([sample.image for sample in edits]).argmax(1)
    right = sum(int(label) == sample.label for label, sample in zip(found, edits, strict=True))
    # bfloat16 was scored, float32 is asked: an image on the border may change sides.
    assert abs(right / len(edits) - arm["validation_edits_accuracy"]) <= 2 / len(edits)


def speeds(result: dict, arm: str) -> list[float]:
    return [line["images_per_second"] for line in result["arms"][arm]["history"]]


@pytest.mark.slow
def test_the_reinforced_arm_loses_the_planted_weakness(whole: tuple[RunFile, RunDirectory, dict]) -> None:
    _, rundir, result = whole
    arms = result["arms"]
    assert list(arms) == ["patient", "real_only", "reinforced"]
    assert arms["reinforced"]["validation_edits_accuracy"] > arms["real_only"]["validation_edits_accuracy"] + 0.3
    assert [line["step"] for line in arms["reinforced"]["history"]] == [16, 32, 48, 64]
    assert result["images"]["counterfactuals"] > 0
    assert rundir.read_json("reinforce.json") == result


@pytest.mark.slow
def test_the_saved_model_predicts_as_it_was_scored(whole: tuple[RunFile, RunDirectory, dict]) -> None:
    _, rundir, result = whole
    for arm in ("real_only", "reinforced"):
        model = ModelConfig(name=str(rundir.storage.local_path(result["arms"][arm]["model"])))
        classifier = Classifier(ProbeConfig(model=model), CLASSES, offline=True)
        edits = [
            sample
            for index in rundir.done()
            for sample in rundir.read_shard(index)
            if sample.role == "counterfactual" and sample.split == "validation"
        ]
        found = classifier.predict([sample.image for sample in edits]).argmax(1)
        right = sum(int(label) == sample.label for label, sample in zip(found, edits, strict=True))
        assert right / len(edits) == result["arms"][arm]["validation_edits_accuracy"]


@pytest.mark.slow
def test_only_the_evaluation_opens_the_images_of_the_test_split(
    folder: Path,
    whole: tuple[RunFile, RunDirectory, dict],
    unread: dict[Path, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, rundir, _ = whole
    tested = {folder / "own" / item.locator for item, _ in rundir.plan().of_split("test")}

    def opened() -> set[Path]:
        return {path for path, before in unread.items() if path.stat().st_atime != before}

    if not opened():
        pytest.skip("this file system does not note when a file is read")
    # Asked in this process, which opens what actors open and takes less time to start.
    monkeypatch.setattr(classifiers, "in_session", lambda: False)
    refs = arm_refs(run, rundir).values()
    ask([question for ref in refs for question in questions({ref.digest(): ref}, rundir)], "probe")
    assert opened() == set(unread) - tested
    evaluate_arms(run, rundir)
    assert opened() == set(unread)


@pytest.mark.slow
def test_the_command_refuses_a_planted_leak_and_names_shard_and_key(
    folder: Path, cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run, rundir = make(folder, "leaking")
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


@pytest.fixture(scope="module")
def every_arm(folder: Path, cluster: None) -> tuple[RunFile, RunDirectory, dict]:
    """All arms a few steps each, on two workers, in bfloat16, one phrase held out."""
    presets = ("real_only", "randaugment", "cutmix", "reweighted", "groupdro", "random_edits", "reinforced", "oracle")
    arms = dict.fromkeys(presets) | {
        "everything": {
            "edits": {"by": "weakness", "placebos": 0.25}, "sampler": "groups", "first_layer_rate": 0.3,
            "losses": {"contrast": 0.1, "worst_group": 0.05, "soft_labels": 0.2},
        },
        "edits_first": {"edits": {"first": 0.5}, "losses": {"soft_labels": 0}},
    }  # fmt: skip
    run, rundir = make(
        folder, "arms", oracle=folder / "images", arms=arms, num_steps=6, eval_every=3, consistency=0.5, num_workers=2,
        distillation=0.5, soft_labels=0.2, max_blur=0.0, interpolation=[0.5], held_out_phrases=["navy"],
        deepspeed={
            "gradient_accumulation_steps": 2, "zero_optimization": {"stage": 2}, "bf16": {"enabled": True}
        },
    )  # fmt: skip
    weak = {"class_name": "blob", "kind": "background", "after": "blue", "tested_drop": 0.9}
    rundir.write_json(WEAKNESS, {"cells": [weak], "by_kind": []})
    return run, rundir, reinforce_run(run, rundir)


@pytest.mark.slow
def test_every_arm_trains_and_says_what_lies_between_it_and_the_patient(
    every_arm: tuple[RunFile, RunDirectory, dict],
) -> None:
    run, rundir, result = every_arm
    assert list(result["arms"]) == ["patient", *run.reinforce.arms]
    for name in run.reinforce.arms:
        arm = result["arms"][name]
        assert [line["step"] for line in arm["history"]] == [3, 6]
        assert [point["share"] for point in arm["frontier"]] == [0.5]
        assert rundir.exists(f"{arm['model']}/model.safetensors")
    weights = [rundir.storage.read(f"models/{name}/model.safetensors") for name in run.reinforce.arms]
    assert len(set(weights)) == len(run.reinforce.arms)


@pytest.mark.slow
def test_two_workers_save_a_whole_model_in_bfloat16(every_arm: tuple[RunFile, RunDirectory, dict]) -> None:
    _, rundir, result = every_arm
    check_saved(rundir, result["arms"]["reinforced"], ["blue"])


@pytest.mark.slow
def test_every_arm_is_scored_on_phrases_of_both_sorts(every_arm: tuple[RunFile, RunDirectory, dict]) -> None:
    run, rundir, result = every_arm
    for name in ("patient", *run.reinforce.arms):
        assert {"validation_edits_accuracy", "validation_held_out_accuracy"} <= result["arms"][name].keys()
    # Each source has one edit to blue and one to navy.
    train, validation = (sum(rundir.plan().counts(edited=True)[split].values()) for split in ("train", "validation"))
    assert result["images"]["counterfactuals"] == train
    assert result["held_out"] == {
        "phrases": ["background: navy"], "train_edits": train, "validation_edits": validation
    }  # fmt: skip
    assert any("phrases that were held out of training" in reason for reason in result["reasons"])


@pytest.mark.slow
def test_what_is_done_is_not_done_again(
    whole: tuple[RunFile, RunDirectory, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, rundir, result = whole
    monkeypatch.setattr(reinforce, "_fit", None)
    assert reinforce_run(run, rundir) == result


DRIVER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from cluster.session.placement import reinforce_needs
from cluster.phases.reinforce import reinforce_run
from cluster.session.session import SessionConfig, ray_session
from engine.run.directory import RunDirectory

rundir = RunDirectory.open(sys.argv[1])
run = rundir.run()
with ray_session([reinforce_needs(run.reinforce)], SessionConfig(address=sys.argv[2])):
    reinforce_run(run, rundir)
"""


@pytest.mark.slow
def test_interrupted_killed_and_robbed_of_its_worker_it_goes_on_where_it_stopped_and_ends_alike(
    folder: Path, whole: tuple[RunFile, RunDirectory, dict], caplog: pytest.LogCaptureFixture
) -> None:
    import ray

    # Of two arms with four checkpoints each none of the three gets far.
    run, rundir = make(folder, "driver", **STEPS, max_failures=1)
    command = [sys.executable, "-c", DRIVER, rundir.storage.root, ray.get_runtime_context().gcs_address]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as driver:
        wait_for_lines(rundir, 1)
        driver.send_signal(signal.SIGINT)
        _, said = driver.communicate()
    # Ctrl-C is the program's, not Ray's: it says so, and the exit code is not that of success.
    assert (driver.returncode, said.splitlines()[-1]) == (-signal.SIGINT, "KeyboardInterrupt")
    with subprocess.Popen(command, env=environment) as driver:
        killed = wait_for_lines(rundir, 3)
        driver.kill()
    robbed: list[dict] = []
    with caplog.at_level(logging.INFO, logger="cluster"), killing_workers(rundir, 5, robbed):
        result = reinforce_run(run, rundir)
    assert "reinforce: goes on after" in caplog.text
    assert history(result) == history(whole[2])
    # These times can only come from the checkpoints.
    assert speeds(result, "real_only")[0] == killed[0]["images_per_second"]
    assert speeds(result, "real_only")[:3] == [line["images_per_second"] for line in robbed[:3]]


@pytest.mark.slow
def test_adapters_of_a_worker_that_died_go_on_with_two_under_zero_3_and_are_merged_into_a_whole_model(
    folder: Path, cluster: None
) -> None:
    save_vit(folder / "vit")
    zero = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}
    more = {"first_layer_rate": 0.3, "contrast": 0.1, "worst_group": 0.01}
    settings = {"arms": ["reinforced"], "deepspeed": zero, "num_steps": 24, "trained": "lora", **more}
    alone, rundir = make(folder, "adapters", "vit", **settings)
    before: list[dict] = []
    with killing_workers(rundir, 3, before), pytest.raises(RunError, match="The same command goes on"):
        reinforce_run(alone, rundir)
    two = run_file(folder / "images", folder / "vit", **settings, num_workers=2)
    arm = reinforce_run(two, rundir)["arms"]["reinforced"]
    assert [line["step"] for line in arm["history"]] == [4, 8, 12, 16, 20, 24]
    # The times of the first line can only come from the checkpoint of the one.
    assert arm["history"][0]["images_per_second"] == before[0]["images_per_second"]
    check_saved(rundir, arm)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "case"), [("vit_l", "lora"), ("convnext_l", "layers")])
def test_a_large_architecture_killed_after_a_checkpoint_writes_the_lines_of_one_that_was_not(
    folder: Path, cluster: None, name: str, case: str
) -> None:
    save_classifier(folder / name, name, "tiny")
    settings = {"arms": ["reinforced"], "deepspeed": ZERO_3, "num_steps": 6, "eval_every": 2, **CASES[case]}
    found = []
    for kills in (False, True):
        run, rundir = make(folder, f"{name}-{kills}", name, **settings)
        before: list[dict] = []
        if kills:
            with killing_workers(rundir, 2, before), pytest.raises(RunError, match="The same command goes on"):
                reinforce_run(run, rundir)
        lines_found = reinforce_run(run, rundir)["arms"]["reinforced"]["history"]
        # These times can only come from the checkpoint.
        assert not kills or lines_found[0]["images_per_second"] == before[0]["images_per_second"]
        found.append([dict(line, images_per_second=None) for line in lines_found])
    assert [line["step"] for line in found[0]] == [2, 4, 6]
    assert found[0] == found[1]


@pytest.fixture
def fits_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the loop of a worker run in this process, alone and without Ray Train."""
    from actors.finetune.worker import train_loop

    def fit(settings: TrainSettings, _: RunDirectory) -> TrainOutput:
        output = train_loop({"settings": settings})
        if isinstance(output, EngineError):
            raise output
        return output

    monkeypatch.setattr(reinforce, "_fit", fit)
    monkeypatch.setattr("ray.train.get_checkpoint", lambda: None)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_settings_that_deepspeed_refuses_are_the_user_s_mistake(
    folder: Path, fits_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setattr("deepspeed.init_distributed", lambda **_: None)
    monkeypatch.setattr("actors.finetune.start.set_up_process", lambda _: None)
    run, rundir = make(folder, "refused", deepspeed={"zero_optimization": {"stage": 1, "of_no_version": 9}})
    with pytest.raises(RunFileError, match="DeepSpeed refuses the settings"):
        reinforce_run(run, rundir)


def test_a_worker_that_dies_once_too_often_is_a_run_that_failed() -> None:
    from ray.train.v2.api.exceptions import WorkerGroupError

    explained = reinforce._explain(WorkerGroupError("", {1: ValueError("one\ntwo")}))
    assert isinstance(explained, RunError)
    assert str(explained).startswith("fine-tuning failed in worker 1: ValueError: two. The same command goes on")


def test_without_accepted_edits_only_the_patient_is_scored(
    folder: Path, fits_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.finetune.worker.start_worker", lambda _: Place(rank=0, size=1))
    run = run_file(folder / "images", folder / "patient")
    result = reinforce_run(run, committed_run(folder / "bare", run, edits=0))
    assert list(result["arms"]) == ["patient"]
    assert result["verdict"] == "do not ship"
    assert "no counterfactual of a train source was accepted" in result["reasons"][0]


def test_a_black_box_cannot_be_reinforced(folder: Path) -> None:
    run, rundir = make(folder, "blackbox")
    blind = run.model_copy(update={"probe": ProbeConfig(callable="some.module:function")})
    with pytest.raises(RunFileError, match="set probe"):
        reinforce_run(blind, rundir)
