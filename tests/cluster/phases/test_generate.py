"""The generate phase: what the run directory holds after it, and what is said when a stage fails."""

import platform
import re
from pathlib import Path

import pytest
from tint_runs import generate, tint_run, write_images

from cluster.phases.generate import generate_run, read_planned
from cluster.session import worker
from cluster.session.worker import NOTE, error_context, explain, load_with_retries
from engine.audit.files import verify_run
from engine.errors import ModelError, ModelUnavailableError, RunError, SourceError
from engine.plan.plan import make_plan
from engine.processor import processor
from engine.run.directory import RunDirectory
from engine.runfile.run import RunFile
from engine.shards.marker import add_counts, versions


def broken_run(images: Path, **options: object) -> RunFile:
    stage = {"kind": "plugin", "target": "tiny_stages:Broken", "options": options}
    return tint_run(images, stages={"mine": stage})


@pytest.fixture(scope="module")
def finished(generation_ray: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFile, RunDirectory]:
    folder = tmp_path_factory.mktemp("finished")
    run = tint_run(write_images(folder / "images", bad=2), grouped=True)
    return run, generate(run, folder / "run")


def test_every_source_and_every_edit_is_accounted_for(finished: tuple[RunFile, RunDirectory]) -> None:
    _, rundir = finished
    counts = add_counts(rundir.markers())
    assert rundir.pending() == []
    assert counts.sources == 14
    assert counts.placebos + counts.rejected_placebos == 14
    assert counts.candidates == 3 * 14
    assert counts.accepted + sum(counts.rejected.values()) + counts.quarantined_candidates == counts.candidates
    assert counts.rejected.keys() <= {"dark"}
    assert counts.quarantined == {"too_blue": 14, "unreadable_image": 2}
    assert verify_run(rundir) == []


def test_markers_hold_the_seconds_of_each_stage(finished: tuple[RunFile, RunDirectory]) -> None:
    for marker in finished[1].markers().values():
        assert marker.seconds.keys() == {"source", "tint", "judge"}
        assert all(seconds > 0 for seconds in marker.seconds.values())


def test_markers_name_the_kind_of_machine_and_the_versions(finished: tuple[RunFile, RunDirectory]) -> None:
    for marker in finished[1].markers().values():
        assert marker.versions == {**versions(), "machine": processor()}


def test_only_a_deleted_shard_is_made_again(finished: tuple[RunFile, RunDirectory]) -> None:
    run, rundir = finished
    out = rundir.storage.local_path("")
    before = rundir.markers()
    assert generate(run, out).markers() == before
    for path in ("done/000002.json", "shards/000002.tar"):
        rundir.storage.delete(path)
    after = generate(run, out).markers()
    assert after[2].files == before[2].files
    assert {index: after[index] for index in (0, 1, 3)} == {index: before[index] for index in (0, 1, 3)}


def test_a_model_that_is_not_there_is_said_in_one_message(generation_ray: None, tmp_path: Path) -> None:
    said = rf"^the start of stage 'mine' on {re.escape(platform.node())}: model 'x' is no folder$"
    with pytest.raises(ModelError, match=said):
        generate(broken_run(write_images(tmp_path / "images"), how="no_model"), tmp_path / "run")


def test_sources_that_are_gone_once_they_are_to_be_read_are_named(generation_ray: None, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    run = tint_run(images)
    plan = make_plan(run)
    rundir = RunDirectory.create(str(tmp_path / "run"), run, plan)
    images.rename(tmp_path / "moved")
    with pytest.raises(SourceError, match=rf"^the reading of shard \d: source folder not found: {images}"):
        generate_run(run, rundir, plan)


def test_a_bug_in_a_stage_names_stage_and_shard(generation_ray: None, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^stage 'mine' on shard \d failed: ValueError: the last line\. Shards that"):
        generate(broken_run(write_images(tmp_path / "images"), how="bug"), tmp_path / "run")


def test_a_stage_that_loses_a_sample_is_refused(generation_ray: None, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the commit of shard \d: shard \d is not whole: 1 planned sources are missing"):
        generate(broken_run(write_images(tmp_path / "images", bad=0), how="loses"), tmp_path / "run")


def test_a_transient_failure_is_tried_again(generation_ray: None, tmp_path: Path) -> None:
    run = broken_run(write_images(tmp_path / "images"), how="transient", seen=str(tmp_path / "seen"))
    assert generate(run, tmp_path / "run").pending() == []


def test_an_unreadable_image_becomes_a_rejection_beside_the_others(tmp_path: Path) -> None:
    run = tint_run(write_images(tmp_path / "images", bad=1))
    plan = make_plan(run)
    rows = [read_planned(run.data.train, index, plan.shard(index)) for index in range(plan.num_shards)]
    (rejection,) = [rejection for row in rows for rejection in row.rejections]
    assert (rejection.stage, rejection.reason) == ("source", "unreadable_image")
    assert sum(len(row.samples) for row in rows) == 15
    assert sorted(key for row in rows for key in row.planned) == sorted(plan.table.column("key").to_pylist())


def test_a_model_that_cannot_be_had_just_now_is_tried_again_and_then_named_with_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "LOAD_WAITS_S", (0.0, 0.0))
    tries = iter([ModelUnavailableError("model 'a/b' could not be fetched"), None])

    def load() -> str:
        if error := next(tries):
            raise error
        return "loaded"

    assert load_with_retries("the start of stage 'editor'", load) == "loaded"
    for error, count in ((ModelUnavailableError("model 'a/b': no network"), 3), (ModelError("no weights"), 1)):
        tries = iter([error] * 9)
        with pytest.raises(ModelError) as caught:
            load_with_retries("the start of stage 'editor'", load)
        assert len(list(tries)) == 9 - count
        assert str(explain(ValueError("\n".join(caught.value.__notes__)))) == (
            f"the start of stage 'editor' on {platform.node()}: {error}"
        )


def test_an_error_without_a_note_is_still_one_line() -> None:
    error = explain(ValueError("Traceback\n  File x\nray.exceptions.OutOfMemoryError: a worker was killed"))
    assert isinstance(error, RunError)
    assert str(error).startswith("the run failed: ray.exceptions.OutOfMemoryError: a worker was killed. ")


def test_a_note_says_where_it_was() -> None:
    error = ModelError("no weights")
    with pytest.raises(ModelError), error_context("the start of stage 'editor'"):
        raise error
    assert error.__notes__ == [
        NOTE + '{"where": "the start of stage \'editor\'", "kind": "ModelError", "message": "no weights"}'
    ]
