"""The probe asks the classifier about every accepted sample once, wherever it runs, and never about the test split."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_classifiers import save_checkpoint
from tiny_runs import CLASSES, tiny_plan, tiny_results

from actors.classifier.classifier import Classifier
from cluster.phases.classifiers import ClassifierRef
from cluster.phases.probe import predictions_path, probe_run, probe_shards, read_predictions
from cluster.preflight.preflight import preflight
from engine.errors import LeakError, ModelError, RunError
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory
from engine.runfile.fields import ModelConfig
from engine.runfile.probe import ProbeConfig
from engine.runfile.run import RunFile
from engine.sample import Sample


@pytest.fixture
def finished(tmp_path: Path) -> tuple[RunFile, RunDirectory]:
    return make_finished(tmp_path)


def test_every_accepted_sample_gets_one_row(finished: tuple[RunFile, RunDirectory]) -> None:
    run, rundir = finished
    probe_run(run, rundir)
    digest = _ref(run).digest()
    rows = read_predictions(rundir, digest).to_pylist()
    samples = [sample for index in rundir.done() for sample in rundir.read_shard(index)]
    assert [row["key"] for row in rows] == [sample.key for sample in samples]
    expected = Classifier(run.probe, CLASSES).predict([sample.image for sample in samples])
    assert [row["prediction"] for row in rows] == expected.argmax(1).tolist()
    assert [row["confidence"] for row in rows] == expected.max(1).tolist()
    assert [row["p_label"] for row in rows] == [row[s.label] for row, s in zip(expected.tolist(), samples, strict=True)]
    edit = next(row for row in rows if row["role"] == "counterfactual")
    assert (edit["edit_kind"], edit["edit_before"], edit["edit_after"], edit["edit_severity"]) == (
        "background",
        "grass",
        "snow",
        1.0,
    )
    assert (edit["accepted"], edit["attribute_background"]) == (True, "grass")


def test_the_result_names_its_classifier_and_its_sources(finished: tuple[RunFile, RunDirectory]) -> None:
    run, rundir = finished
    table = probe_run(run, rundir)
    content = rundir.read_json("weakness.json")
    assert isinstance(content, dict)
    assert content["digest"] == _ref(run).digest()
    assert content["sources"] == {"train": 6}
    assert content["cells"] == table.to_json()["cells"]
    assert table.overall is not None
    assert table.overall.n_edits == 6


def test_the_result_holds_phrases_calibration_and_no_failure_points_at_one_severity(
    finished: tuple[RunFile, RunDirectory],
) -> None:
    run, rundir = finished
    probe_run(run, rundir)
    content = rundir.read_json("weakness.json")
    assert isinstance(content, dict)
    phrases, calibration = content["phrases"], content["calibration"]
    assert isinstance(phrases, dict)
    assert isinstance(calibration, dict)
    assert phrases["num_phrases"] in {0, 1}
    assert set(calibration) == {"source", "placebo", "counterfactual"}
    assert (content["failure_points"], content["transfer"]) == ([], [])


def test_other_classifiers_are_asked_about_the_same_shards(
    finished: tuple[RunFile, RunDirectory], tmp_path: Path
) -> None:
    run, rundir = finished
    other = save_checkpoint(tmp_path / "other", "resnet", list(CLASSES), seed=1)
    config = run.probe.model_copy(update={"transfer": (ModelConfig(name=str(other)), run.probe.model)})
    probe_run(run.model_copy(update={"probe": config}), rundir)
    content = rundir.read_json("weakness.json")
    assert isinstance(content, dict)
    first, itself = content["transfer"]  # type: ignore[misc,union-attr]  # JSON
    assert first["classifier"] == str(other)
    assert first["digest"] != content["digest"] == itself["digest"]
    assert all(rundir.exists(predictions_path(first["digest"], index)) for index in rundir.done())
    assert itself["overall"]["drop"] == content["overall"]["corrected_drop"]  # type: ignore[index]  # JSON


def test_predictions_carry_the_split_key_that_halves_the_sources(finished: tuple[RunFile, RunDirectory]) -> None:
    run, rundir = finished
    table = read_predictions(rundir, probe_shards(_ref(run), rundir))
    planned = rundir.plan().table
    keys = dict(zip(planned["key"].to_pylist(), planned["split_key"].to_pylist(), strict=True))
    assert table["split_key"].to_pylist() == [keys[key] for key in table["source_key"].to_pylist()]


def test_shards_that_were_probed_are_not_probed_again(finished: tuple[RunFile, RunDirectory]) -> None:
    run, rundir = finished
    digest = probe_shards(_ref(run), rundir)
    first, second = (rundir.storage.local_path(predictions_path(digest, index)) for index in rundir.done())
    kept, before = first.read_bytes(), first.stat().st_mtime_ns
    lost = second.read_bytes()
    second.unlink()
    probe_shards(_ref(run), rundir)
    assert (first.read_bytes(), first.stat().st_mtime_ns) == (kept, before)
    assert second.read_bytes() == lost


def test_another_classifier_has_its_own_predictions(finished: tuple[RunFile, RunDirectory], tmp_path: Path) -> None:
    run, rundir = finished
    other = save_checkpoint(tmp_path / "other", "resnet", list(CLASSES), seed=1)
    config = run.probe.model_copy(update={"model": ModelConfig(name=str(other))})
    assert probe_shards(_ref(run), rundir) != probe_shards(replace(_ref(run), config=config), rundir)


def test_a_shard_with_a_test_source_is_refused(tmp_path: Path) -> None:
    run, rundir = make_finished(tmp_path, split="test")
    with pytest.raises(LeakError, match="of the test split"):
        probe_run(run, rundir)


def test_nothing_to_probe_says_what_to_run(tmp_path: Path) -> None:
    run, plan = tiny_plan(tmp_path)
    rundir = RunDirectory.create(str(tmp_path / "run"), run, plan)
    with pytest.raises(RunError, match="counterforge generate"):
        probe_run(run, rundir)


def test_a_black_box_is_probed_as_a_checkpoint_is(
    tmp_path: Path, finished: tuple[RunFile, RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "black_box.py").write_text("def ask(images):\n    return [[0.25, 0.75] for _ in images]\n")
    monkeypatch.syspath_prepend(tmp_path)
    run, rundir = finished
    table = probe_run(run.model_copy(update={"probe": ProbeConfig(callable="black_box:ask", min_sources=2)}), rundir)
    assert table.overall is not None
    assert table.overall.measures["accuracy_source"].value == 0.5
    assert table.overall.measures["accuracy_drop"].value == 0


def test_a_new_model_file_behind_the_same_function_is_asked_anew_and_reuse_is_said(
    tmp_path: Path,
    finished: tuple[RunFile, RunDirectory],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    share = tmp_path / "share.txt"
    share.write_text("0.75")
    (tmp_path / "file_box.py").write_text(
        f"from pathlib import Path\ndef ask(images):\n    share = float(Path({str(share)!r}).read_text())\n"
        "    return [[1 - share, share] for _ in images]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    _, rundir = finished
    config = ProbeConfig(callable="file_box:ask", files=(str(share),), min_sources=2)

    def p_labels(config: ProbeConfig) -> set[float]:
        ref = ClassifierRef(config=config, classes=CLASSES)
        return set(read_predictions(rundir, probe_shards(ref, rundir))["p_label"].to_pylist())

    assert p_labels(config) == {0.25, 0.75}
    share.write_text("0.5")
    assert p_labels(config) == {0.5}
    # Without `files` nothing tells the two apart: the log says that it asked nobody, and how to ask anew.
    alone = config.model_copy(update={"files": ()})
    assert p_labels(alone) == {0.5}
    share.write_text("0.25")
    caplog.clear()
    with caplog.at_level("INFO"):
        assert p_labels(alone) == {0.5}
    assert caplog.messages == [
        "probe: predictions of 2 shards by file_box:ask are used again: source file, probe.files and probe.version "
        "(another one asks anew) are the same"
    ]
    assert p_labels(alone.model_copy(update={"version": 2})) == {0.25, 0.75}


def test_a_model_of_more_classes_is_probed_within_those_of_the_run_and_that_is_said(
    finished: tuple[RunFile, RunDirectory], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, rundir = finished
    model = save_checkpoint(tmp_path / "three", "resnet", [*CLASSES, "hat"])
    note = (
        f"model {str(model)!r} has 3 classes, its answers are restricted to the run's 2; fine-tuned it has these alone"
    )
    config = run.probe.model_copy(update={"model": ModelConfig(name=str(model))})
    probe_run(run.model_copy(update={"probe": config}), rundir)
    content = rundir.read_json("weakness.json")
    assert isinstance(content, dict)
    assert content["output_notes"] == [note]
    assert f"probe: {note}" in caplog.messages
    assert preflight(run.model_copy(update={"probe": config}), rundir.plan(), ["probe"]).warnings == [note]
    probe_run(run, rundir)
    content = rundir.read_json("weakness.json")
    assert isinstance(content, dict)
    assert content["output_notes"] == []


@pytest.mark.slow
def test_one_pool_on_ray_asks_every_classifier_and_each_says_what_it_says_here(
    tmp_path: Path, generation_ray: None
) -> None:
    run, rundir = make_finished(tmp_path)
    other = ModelConfig(name=str(save_checkpoint(tmp_path / "other", "resnet", list(CLASSES), seed=1)))
    probe_run(run.model_copy(update={"probe": run.probe.model_copy(update={"transfer": (other,)})}), rundir)
    said = []
    for config in (run.probe, run.probe.model_copy(update={"model": other})):
        classifier, digest = Classifier(config, CLASSES), replace(_ref(run), config=config).digest()
        for index in rundir.done():
            table = pq.read_table(io.BytesIO(rundir.storage.read(predictions_path(digest, index))))
            probabilities = classifier.predict([sample.image for sample in rundir.read_shard(index)])
            assert np.array_equal(table["confidence"].to_numpy(), probabilities.max(axis=1))
        said.append(probabilities)
    assert not np.array_equal(*said)


@pytest.mark.slow
def test_what_an_actor_says_is_wrong_reaches_the_user(tmp_path: Path, generation_ray: None) -> None:
    run, rundir = make_finished(tmp_path)
    other = save_checkpoint(tmp_path / "other", "resnet", ["cat", "dog"])
    config = run.probe.model_copy(update={"model": ModelConfig(name=str(other))})
    with pytest.raises(ModelError, match="does not know 'boot', 'coat', it knows 'cat', 'dog'"):
        probe_shards(replace(_ref(run), config=config), rundir)


def make_finished(folder: Path, split: str = "train") -> tuple[RunFile, RunDirectory]:
    """A run of two shards that are done, with a tiny random classifier to probe."""
    run, plan = tiny_plan(folder)
    model = save_checkpoint(folder / "model", "resnet", list(CLASSES))
    run = run.model_copy(update={"probe": ProbeConfig(model=ModelConfig(name=str(model)), min_sources=2, batch_size=4)})
    rundir = RunDirectory.create(str(folder / "run"), run, plan)
    for index in range(plan.num_shards):
        results = [
            replace(result, split=split) if isinstance(result, Sample) else result
            for result in tiny_results(plan, index)
        ]
        commit_shard(rundir, index, plan.keys(index), results, {})
    return run, rundir


def _ref(run: RunFile) -> ClassifierRef:
    return ClassifierRef(config=run.probe, classes=CLASSES)
