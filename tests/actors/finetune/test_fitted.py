"""Arms that are fitted without steps, in this process: their results, resuming, and what the linear probe says."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray.train
import torch
from finetune_run import CLASSES, committed_run, run_file, save_images, save_resnet

from actors.classifier.classifier import Classifier
from actors.finetune import worker as training
from actors.finetune.arm_run import BEST, STATE, Worker
from actors.finetune.arms import dpe, logistic
from actors.finetune.fitted import open_features
from actors.finetune.frozen import most_even
from actors.finetune.stream import Place
from engine.run.directory import RunDirectory
from engine.runfile.fields import ModelConfig
from engine.runfile.probe import ProbeConfig
from engine.runfile.run import RunFile
from engine.training.linear_probe import LinearProbe
from engine.training.progress import Progress
from engine.training.result import TrainOutput, to_result
from engine.training.settings import TrainSettings, resolve_settings

ARMS = ["dfr", "dfr_edits", "dpe", "projection"]


@pytest.fixture(scope="module", autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of this process."""
    store = torch.distributed.FileStore(str(tmp_path_factory.mktemp("store") / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer members and iterations: what is fitted here is tiny."""
    monkeypatch.setattr(dpe, "NUM_MEMBERS", 3)
    monkeypatch.setattr(dpe, "MIN_STEPS", 20)
    monkeypatch.setattr(logistic, "NUM_ITERATIONS", 30)


@pytest.fixture
def reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder to which the checkpoints go that a worker hands to Ray Train."""
    folder = tmp_path / "checkpoint"

    def report(metrics: object, checkpoint: ray.train.Checkpoint) -> None:
        shutil.copytree(checkpoint.path, folder, dirs_exist_ok=True)

    monkeypatch.setattr(ray.train, "report", report)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    save_images(folder / "images")
    save_resnet(folder / "patient")
    return folder


def settings_of(run: RunFile, rundir: RunDirectory) -> TrainSettings:
    return resolve_settings(run, rundir, "digest")


def train(settings: TrainSettings, checkpoint: Path | None = None) -> TrainOutput:
    worker = Worker(settings, Place(rank=0, size=1))
    return training.train_arms(worker, open_features(worker), checkpoint)


@pytest.fixture(scope="module")
def committed(folder: Path) -> tuple[RunFile, RunDirectory]:
    run = run_file(folder / "images", folder / "patient", arms=ARMS, ships="dfr_edits", interpolation=[0.5])
    return run, committed_run(folder / "run", run)


def test_every_fitted_arm_is_saved_as_it_was_scored_and_is_not_fitted_again(
    committed: tuple[RunFile, RunDirectory], reported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, rundir = committed
    settings = settings_of(run, rundir)
    output = train(settings)
    result = to_result(settings, output)
    edits = [
        sample
        for index in rundir.done()
        for sample in rundir.read_shard(index)
        if sample.role == "counterfactual" and sample.split == "validation"
    ]
    for name in ARMS:
        arm = result["arms"][name]
        assert [line["step"] for line in arm["history"]] == [8]
        assert [point["share"] for point in arm["frontier"]] == ([] if name == "dpe" else [0.5])
        saved = ModelConfig(name=str(rundir.storage.local_path(arm["model"])))
        found = Classifier(ProbeConfig(model=saved), CLASSES, offline=True).predict([each.image for each in edits])
        right = sum(int(label) == each.label for label, each in zip(found.argmax(1), edits, strict=True))
        assert right / len(edits) == pytest.approx(arm["validation_edits_accuracy"], abs=1 / len(edits))
    assert result["arms"]["dfr_edits"]["validation_edits_accuracy"] == 1
    # Each class has one ground in the real images: without edits there is no counter-example.
    assert result["arms"]["dfr"]["validation_edits_accuracy"] < 0.8
    assert "of 47 images of 2 groups, the smallest of 22" in result["arms"]["dfr"]["fitted"]
    assert (rundir.storage.local_path("models/dpe") / "prototypes.safetensors").exists()
    # The last arm was handed over, but not saved yet.
    shutil.rmtree(rundir.storage.local_path("models/projection"))
    monkeypatch.setattr(training, "fit_arm", None)
    again = train(settings, reported)
    assert again.progress == output.progress
    assert rundir.exists("models/projection/model.safetensors")


def test_an_arm_that_was_killed_before_it_was_handed_over_is_fitted_again_to_the_same_end(
    committed: tuple[RunFile, RunDirectory], reported: Path
) -> None:
    run, rundir = committed
    two = replace(settings_of(run, rundir), arms=("dfr", "projection"))
    whole = train(two)
    shutil.rmtree(reported)
    train(replace(two, arms=("dfr",)))
    assert (reported / BEST).exists()
    assert list(json.loads((reported / STATE).read_text())["arms"]) == ["dfr"]
    resumed = train(two, reported)

    def without_time(output: TrainOutput) -> Progress:
        arms = {
            name: replace(record, history=tuple(replace(line, images_per_second=0.0) for line in record.history))
            for name, record in output.progress.arms.items()
        }
        return replace(output.progress, arms=arms)

    assert without_time(resumed) == without_time(whole)


def test_prototypes_of_an_earlier_training_do_not_stay_beside_another_head(
    committed: tuple[RunFile, RunDirectory], reported: Path
) -> None:
    run, rundir = committed
    settings = settings_of(run, rundir)
    train(replace(settings, arms=("dpe",)))
    worker = Worker(settings, Place(rank=0, size=1))
    worker.base.save(worker.base.model().state_dict(), rundir.storage, "models/dpe")
    assert not rundir.exists("models/dpe/prototypes.safetensors")


def test_labels_that_do_not_belong_to_their_images_do_not_ship_and_the_reason_is_said(
    folder: Path, tmp_path: Path, reported: Path
) -> None:
    for index, path in enumerate(sorted((folder / "images").rglob("*.png"))):
        target = tmp_path / "images" / CLASSES[(index * 7 // 3) % 2] / f"{path.parent.name}-{path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    run = run_file(tmp_path / "images", folder / "patient", arms=["dfr_edits"], ships="dfr_edits")
    rundir = committed_run(tmp_path / "run", run)
    settings = settings_of(run, rundir)
    result = to_result(settings, train(settings))
    assert result["verdict"] == "do not ship"
    assert result["reasons"][-1] == result["linear_probe"]["sentence"]


def test_features_without_the_class_do_not_ship_and_the_reason_is_said(
    folder: Path, tmp_path: Path, committed: tuple[RunFile, RunDirectory], reported: Path
) -> None:
    from transformers import ResNetForImageClassification

    shutil.copytree(folder / "patient", tmp_path / "blind")
    model = ResNetForImageClassification.from_pretrained(tmp_path / "blind")
    for module in model.resnet.encoder.stages[-1].modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.zeros_(module.weight)
    model.save_pretrained(tmp_path / "blind")
    run = run_file(folder / "images", tmp_path / "blind", arms=["dfr_edits"], ships="dfr_edits")
    settings = settings_of(run, committed[1])
    result = to_result(settings, train(settings))
    assert result["verdict"] == "do not ship"
    assert result["linear_probe"]["num_features"] == 16
    assert "no better than to guess the most frequent class" in result["reasons"][-1]


def probe(accuracy: float, chance: float = 0.1) -> str:
    return LinearProbe(
        accuracy=accuracy, base_accuracy=0.48, base_real_accuracy=0.91, chance=chance, num_edits=356, num_features=192
    ).sentence


def test_the_probe_says_what_follows_from_the_share_of_the_lost_accuracy_that_it_wins_back() -> None:
    assert probe(0.83) == (
        "a linear probe on the 192 frozen features gets 83.0 % of the 356 validation edits right, the classifier "
        "48.0 %: the features know the class, so the head alone suffices"
    )
    assert probe(0.70).endswith("in part, so the head alone is not enough")
    assert probe(0.50).endswith("do not know the class of edits, so no head helps: train all layers")
    assert "no better than to guess the most frequent class (50.0 %)" in probe(0.54, chance=0.5)


def test_large_groups_are_cut_to_one_size_and_small_ones_are_whole() -> None:
    groups = [("a",)] * 50 + [("b",)] * 3 + [("c",)] * 30
    rows = most_even(groups, 23, seed=0)
    assert [sum(groups[row] == (name,) for row in rows) for name in "abc"] == [10, 3, 10]
    assert most_even(groups, 1000, seed=0) == list(range(83))
    assert most_even(groups, 23, seed=0) == rows
    assert len(most_even(groups, 1, seed=0)) == 3
