"""The training's history in TensorBoard: read back by TensorBoard itself, whole after a resume."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import tiny_plan

from cluster.monitor.training_log import FOLDER, logged_history, write_scalars
from engine.run.directory import RunDirectory

LINES = [
    {"arm": arm, "step": step, "loss": 1 / step, "validation_accuracy": 0.5 + step / 1000, "num_shards": None}
    for arm in ("real_only", "reinforced")
    for step in (9, 10, 100)
]


@pytest.fixture
def rundir(tmp_path: Path) -> RunDirectory:
    run, plan = tiny_plan(tmp_path)
    return RunDirectory.create(str(tmp_path / "run"), run, plan)


def scalars(rundir: RunDirectory, arm: str, tag: str) -> list[tuple[int, float]]:
    """Return steps and values as TensorBoard's own reader sees them."""
    reader = EventAccumulator(str(rundir.storage.local_path(f"{FOLDER}/training/{arm}")))
    reader.Reload()
    return [(event.step, event.value) for event in reader.Scalars(tag)]


def test_each_arm_has_its_curves(rundir: RunDirectory) -> None:
    write_scalars(rundir, "training", LINES)
    for arm in ("real_only", "reinforced"):
        assert scalars(rundir, arm, "loss") == [(step, pytest.approx(1 / step)) for step in (9, 10, 100)]
        assert scalars(rundir, arm, "validation_accuracy")[-1] == (100, pytest.approx(0.6))


def test_what_is_not_a_number_is_no_curve(rundir: RunDirectory) -> None:
    write_scalars(rundir, "training", LINES)
    reader = EventAccumulator(str(rundir.storage.local_path(f"{FOLDER}/training/reinforced")))
    reader.Reload()
    assert reader.Tags()["scalars"] == ["loss", "validation_accuracy"]


def test_lines_that_come_later_are_added_and_none_is_written_twice(rundir: RunDirectory) -> None:
    write_scalars(rundir, "training", LINES[:2])
    folder = rundir.storage.local_path(f"{FOLDER}/training/real_only")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_scalars(rundir, "training", LINES)
    assert {path.name: path.read_bytes() for path in folder.iterdir()}.items() > before.items()
    assert [step for step, _ in scalars(rundir, "real_only", "loss")] == [9, 10, 100]


def test_a_training_that_is_followed_is_logged_while_it_runs(
    rundir: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    run = rundir.run()
    lines = [{**line, "validation_edits_accuracy": None, "images_per_second": 5.0, "of_shards": None} for line in LINES]
    folder = "checkpoints/training"
    task: Any = SimpleNamespace(
        name="training", config=run.reinforce, history_path=f"{folder}/history.json", probe_path=f"{folder}/probe.json"
    )
    rundir.write_json(task.probe_path, {"sentence": "the head alone suffices"})
    # Two lines are of the training that was killed.
    rundir.write_json(task.history_path, cast(Any, lines[:2]))
    with caplog.at_level("INFO"), logged_history(rundir, task):
        assert [step for step, _ in scalars(rundir, "real_only", "loss")] == [9, 10]
        rundir.write_json(task.history_path, cast(Any, lines))
    assert [step for step, _ in scalars(rundir, "reinforced", "loss")] == [9, 10, 100]
    assert scalars(rundir, "reinforced", "images_per_second")[0] == (9, 5.0)
    assert caplog.messages.count("reinforce: the head alone suffices") == 1
