"""Fine-tuning for real: DeepSpeed under Ray Train, killed and resumed, on the CPU."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from finetune_run import CLASSES, committed_run, run_file, save_images, save_resnet, save_vit, training_session

from actors.classifier import Classifier
from cluster import reinforce
from cluster.reinforce import reinforce_run
from engine.errors import RunError, RunFileError
from engine.rundir import WEAKNESS, RunDirectory
from engine.runfile import ProbeConfig, RunFile
from engine.stages import ModelConfig

pytestmark = pytest.mark.timeout(900)
STEPS = {"num_steps": 160, "eval_every": 40}
ROOT = Path(__file__).parent.parent
# A busy machine of two cores needs minutes for what takes seconds alone.
WAIT_S = 600
DRAWS = {("blob", "background", "blue"): 1}


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
def whole(folder: Path, cluster: None) -> tuple[RunFile, RunDirectory, dict]:
    """One training from beginning to end, the reference for those that are killed."""
    run, rundir = make(folder, "whole", **STEPS)
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


def speeds(result: dict, arm: str) -> list[float]:
    return [line["images_per_second"] for line in result["arms"][arm]["history"]]


@pytest.mark.slow
def test_the_reinforced_arm_loses_the_planted_weakness(whole: tuple[RunFile, RunDirectory, dict]) -> None:
    _, rundir, result = whole
    arms = result["arms"]
    assert list(arms) == ["patient", "real_only", "reinforced"]
    assert arms["reinforced"]["validation_edits_accuracy"] > arms["real_only"]["validation_edits_accuracy"] + 0.3
    assert [line["step"] for line in arms["reinforced"]["history"]] == [40, 80, 120, 160]
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
def test_every_arm_trains_and_says_what_lies_between_it_and_the_patient(folder: Path, cluster: None) -> None:
    arms = ["randaugment", "cutmix", "reweighted", "random_edits", "reinforced", "oracle"]
    run, rundir = make(
        folder, "arms", oracle=folder / "images", arms=arms, num_steps=6, eval_every=6, consistency=0.5,
        distillation=0.5, soft_labels=0.2, max_blur=0.0, interpolation=[0.5],
        deepspeed={"gradient_accumulation_steps": 2, "zero_optimization": {"stage": 1}},
    )  # fmt: skip
    weak = {"class_name": "blob", "kind": "background", "after": "blue", "tested_drop": 0.9}
    rundir.write_json(WEAKNESS, {"cells": [weak], "by_kind": []})
    result = reinforce_run(run, rundir)
    assert list(result["arms"]) == ["patient", *arms]
    for name in arms:
        arm = result["arms"][name]
        assert [point["share"] for point in arm["frontier"]] == [0.5]
        assert rundir.exists(f"{arm['model']}/model.safetensors")
    weights = [rundir.storage.read(f"models/{name}/model.safetensors") for name in arms]
    assert len(set(weights)) == len(arms)


@pytest.mark.slow
def test_what_is_done_is_not_done_again(
    whole: tuple[RunFile, RunDirectory, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, rundir, result = whole
    monkeypatch.setattr(reinforce, "_fit", None)
    assert reinforce_run(run, rundir) == result


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_ends_alike(folder: Path, whole: tuple[RunFile, RunDirectory, dict]) -> None:
    run, rundir = make(folder, "worker", **STEPS, max_failures=1)
    before: list[dict] = []

    def kill() -> None:
        before.extend(wait_for_lines(rundir, 3))
        for child in psutil.Process().children(recursive=True):
            if "RayTrainWorker" in " ".join(child.cmdline()):
                os.kill(child.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    result = reinforce_run(run, rundir)
    thread.join()
    assert history(result) == history(whole[2])
    # The times of the first line can only come from the checkpoint.
    assert speeds(result, "real_only")[0] == before[0]["images_per_second"]


DRIVER = """
import sys
from cluster.placement import reinforce_needs
from cluster.reinforce import reinforce_run
from cluster.session import ray_session
from engine.rundir import RunDirectory

rundir = RunDirectory.open(sys.argv[1])
run = rundir.run()
with ray_session([reinforce_needs(run)]):
    reinforce_run(run, rundir)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped_and_ends_alike(
    folder: Path, whole: tuple[RunFile, RunDirectory, dict], caplog: pytest.LogCaptureFixture
) -> None:
    run, rundir = make(folder, "driver", **STEPS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, rundir.storage.root], env=environment)
    before = wait_for_lines(rundir, 7)
    driver.kill()
    driver.wait()
    with caplog.at_level(logging.INFO, logger="cluster.reinforce"):
        result = reinforce_run(run, rundir)
    assert "reinforce: goes on after reinforced: step" in caplog.text
    assert history(result) == history(whole[2])
    assert speeds(result, "real_only") == [line["images_per_second"] for line in before[:4]]


@pytest.mark.slow
def test_a_killed_run_of_two_workers_goes_on_with_one(folder: Path, cluster: None) -> None:
    settings = {**STEPS, "arms": ["reinforced"]}
    _, rundir = make(folder, "elastic", **settings, num_workers=2)
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, rundir.storage.root], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    before = wait_for_lines(rundir, 3)
    driver.kill()
    driver.wait()
    alone = run_file(folder / "images", folder / "patient", **settings)
    arm = reinforce_run(alone, rundir)["arms"]["reinforced"]
    assert [line["step"] for line in arm["history"]] == [40, 80, 120, 160]
    # The times of the first lines can only come from the checkpoint of the two.
    assert arm["history"][0]["images_per_second"] == before[0]["images_per_second"]
    assert rundir.exists(f"{arm['model']}/model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "deepspeed", "trained"),
    [
        ("patient", {"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}, "all"),
        ("vit", {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}, "lora"),
    ],
    ids=["resnet-zero2-bf16", "vit-zero3-lora"],
)
def test_two_workers_save_a_whole_model(folder: Path, cluster: None, model: str, deepspeed: dict, trained: str) -> None:
    if model == "vit":
        save_vit(folder / "vit")
    settings = {"num_workers": 2, "arms": ["reinforced"], "deepspeed": deepspeed, "num_steps": 12, "trained": trained}
    run, rundir = make(folder, f"two-{model}-{trained}", model, **settings)
    result = reinforce_run(run, rundir)
    arm = result["arms"]["reinforced"]
    assert [line["step"] for line in arm["history"]] == [4, 8, 12]
    saved = ModelConfig(name=str(rundir.storage.local_path(arm["model"])))
    classifier = Classifier(ProbeConfig(model=saved), CLASSES, offline=True)
    samples = [sample for index in rundir.done() for sample in rundir.read_shard(index)]
    edits = [sample for sample in samples if sample.role == "counterfactual" and sample.split == "validation"]
    found = classifier.predict([sample.image for sample in edits]).argmax(1)
    right = sum(int(label) == sample.label for label, sample in zip(found, edits, strict=True))
    # bfloat16 was scored, float32 is asked: an image on the border may change sides.
    assert abs(right / len(edits) - arm["validation_edits_accuracy"]) <= 2 / len(edits)


@pytest.mark.slow
def test_settings_that_deepspeed_refuses_are_the_user_s_mistake(folder: Path, cluster: None) -> None:
    run, rundir = make(folder, "refused", deepspeed={"zero_optimization": {"stage": 9}}, max_failures=3)
    with pytest.raises(RunFileError, match="DeepSpeed refuses the settings"):
        reinforce_run(run, rundir)


@pytest.mark.slow
def test_what_a_worker_says_of_the_run_reaches_the_user(folder: Path, cluster: None) -> None:
    run, rundir = make(folder, "blocked", num_steps=1)
    (folder / "blocked" / "models").write_text("a file where a folder must be")
    with pytest.raises(RunError, match=r"cannot write .*a file is in the way"):
        reinforce_run(run, rundir)


def test_a_worker_that_dies_once_too_often_is_a_run_that_failed() -> None:
    from ray.train.v2.api.exceptions import WorkerGroupError

    explained = reinforce._explain(WorkerGroupError("", {1: ValueError("one\ntwo")}))
    assert isinstance(explained, RunError)
    assert str(explained).startswith("fine-tuning failed in worker 1: ValueError: two. The same command goes on")


@pytest.mark.slow
def test_without_accepted_edits_only_the_patient_is_scored(folder: Path, cluster: None) -> None:
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


def test_another_recipe_is_another_training(folder: Path) -> None:
    run, rundir = make(folder, "names")
    model = run.probe.model
    assert model is not None
    name = reinforce.training_name(run, model, rundir, {}, DRAWS)
    faster = run.model_copy(update={"reinforce": run.reinforce.model_copy(update={"learning_rate": 0.5})})
    patient = run.model_copy(update={"reinforce": run.reinforce.model_copy(update={"max_failures": 9})})
    assert reinforce.training_name(faster, model, rundir, {}, DRAWS) != name
    assert reinforce.training_name(patient, model, rundir, {}, DRAWS) == name
    assert reinforce.training_name(run, model, rundir, {}, {**DRAWS, ("blob", "background", "blue"): 3}) != name
