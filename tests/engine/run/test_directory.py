"""The run directory: it belongs to one plan, and markers alone say what is done."""

import json
import pickle
from pathlib import Path

import pytest
from local_s3 import local_s3
from tiny_runs import tiny_plan, tiny_results

from engine.audit.files import verify_run
from engine.errors import RunDirectoryError, RunFileError, ShardError
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory, marker_path, shard_path
from engine.runfile.run import RunFile


@pytest.fixture
def rundir(tmp_path: Path) -> RunDirectory:
    run, plan = tiny_plan(tmp_path)
    return RunDirectory.create(str(tmp_path / "run"), run, plan)


def commit(rundir: RunDirectory, index: int) -> None:
    plan = rundir.plan()
    commit_shard(rundir, index, plan.keys(index), tiny_results(plan, index), {"editor": 1.5})


def test_a_new_run_directory_holds_the_run_file_the_plan_and_the_versions(tmp_path: Path) -> None:
    run, plan = tiny_plan(tmp_path)
    RunDirectory.create(str(tmp_path / "run"), run, plan)
    found = RunDirectory.open(str(tmp_path / "run"))
    assert found.run() == run
    assert found.plan().digest == plan.digest
    assert found.plan().table.equals(plan.table)
    assert (found.info.num_shards, found.info.classes) == (2, ("boot", "coat"))
    assert {"python", "pillow", "pyarrow"} <= set(found.info.versions)
    assert found.info.revision


def test_the_run_directory_of_another_plan_is_refused(tmp_path: Path, rundir: RunDirectory) -> None:
    run, plan = tiny_plan(tmp_path, seed=1)
    before = (tmp_path / "run" / "run.yaml").read_bytes()
    with pytest.raises(RunDirectoryError, match=r"belongs to another plan.*Choose another folder with --out"):
        RunDirectory.create(str(tmp_path / "run"), run, plan)
    assert (tmp_path / "run" / "run.yaml").read_bytes() == before


def test_the_same_plan_goes_on_with_new_probe_settings(tmp_path: Path, rundir: RunDirectory) -> None:
    commit(rundir, 0)
    run, plan = tiny_plan(tmp_path)
    changed = run.model_copy(update={"probe": run.probe.model_copy(update={"batch_size": 7})})
    again = RunDirectory.create(str(tmp_path / "run"), changed, plan)
    assert again.pending() == [1]
    assert again.run().probe.batch_size == 7


def test_settings_that_no_image_depends_on_can_be_changed_in_place(rundir: RunDirectory) -> None:
    assert rundir.change(["reinforce.num_steps=7"]).reinforce.num_steps == 7
    assert rundir.change([]) == rundir.run()
    with pytest.raises(RunFileError, match=r"--set seed=3: the images of .* are made: only fields of limits, probe"):
        rundir.change(["seed=3"])
    assert (rundir.run().reinforce.num_steps, rundir.run().seed) == (7, 0)


def test_a_change_that_is_refused_leaves_the_run_file_as_it_was(
    rundir: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(before: RunFile, after: RunFile) -> None:
        assert (before.report.group_by, after.report.group_by) == ((), ("typo",))
        raise RunFileError("no such attribute")

    before = rundir.storage.read("run.yaml")
    caplog.clear()
    with caplog.at_level("INFO"), pytest.raises(RunFileError, match="no such attribute"):
        rundir.change(["report.group_by=[typo]"], refuse)
    assert rundir.storage.read("run.yaml") == before
    assert caplog.messages == []


def test_a_change_is_said_field_by_field(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, plan = tiny_plan(tmp_path)
    caplog.clear()
    with caplog.at_level("INFO"):
        rundir = RunDirectory.create(str(tmp_path / "run"), run, plan)
        assert caplog.messages == []
        changed = rundir.change(["report.group_by=[background]", "reinforce.num_steps=7"])
        steps = f"run.yaml changed: reinforce.num_steps: {run.reinforce.num_steps} -> 7"
        assert caplog.messages == [steps, 'run.yaml changed: report.group_by: [] -> ["background"]']
        # So is one by `run` with another run file of the same plan.
        caplog.clear()
        RunDirectory.create(str(tmp_path / "run"), changed.model_copy(update={"report": run.report}), plan)
    assert caplog.messages == ['run.yaml changed: report.group_by: ["background"] -> []']


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    run, plan = tiny_plan(tmp_path)
    with pytest.raises(RunDirectoryError, match=r"holds 'images' and is not a run directory"):
        RunDirectory.create(str(tmp_path), run, plan)


def test_a_run_directory_that_was_cut_off_while_made_is_finished(tmp_path: Path, rundir: RunDirectory) -> None:
    (tmp_path / "run" / "run.json").unlink()
    (tmp_path / "run" / ".run.json.tmp~elsewhere~1~ab").write_bytes(b"{")
    run, plan = tiny_plan(tmp_path, seed=1)
    again = RunDirectory.create(str(tmp_path / "run"), run, plan)
    assert again.pending() == [0, 1]
    assert again.plan().digest == plan.digest


def test_a_lost_plan_is_named_and_written_again(tmp_path: Path, rundir: RunDirectory) -> None:
    (tmp_path / "run" / "plan.parquet").unlink()
    with pytest.raises(RunDirectoryError, match=r"has lost its plan\.parquet"):
        rundir.plan()
    run, plan = tiny_plan(tmp_path)
    assert RunDirectory.create(str(tmp_path / "run"), run, plan).plan().digest == plan.digest


def test_a_folder_that_is_not_a_run_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"is not a run directory, it has no run\.json"):
        RunDirectory.open(str(tmp_path))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"classes": []}'])
def test_a_torn_run_json_is_refused(tmp_path: Path, rundir: RunDirectory, content: str) -> None:
    (tmp_path / "run" / "run.json").write_text(content)
    with pytest.raises(RunDirectoryError, match=r"run\.json cannot be read"):
        RunDirectory.open(str(tmp_path / "run"))


def test_the_format_of_another_version_is_refused(tmp_path: Path, rundir: RunDirectory) -> None:
    path = tmp_path / "run" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 9}))
    with pytest.raises(RunDirectoryError, match="has format 9, this version reads format 3: use counterforge"):
        RunDirectory.open(str(tmp_path / "run"))


def test_a_shard_without_its_marker_counts_as_not_done(tmp_path: Path, rundir: RunDirectory) -> None:
    commit(rundir, 0)
    commit(rundir, 1)
    assert rundir.pending() == []
    (tmp_path / "run" / marker_path(1)).unlink()
    (tmp_path / "run" / "done" / ".000001.json.tmp~elsewhere~1~ab").write_bytes(b"{")
    assert rundir.pending() == [1]
    assert list(rundir.markers()) == [0]
    with pytest.raises(ShardError, match=r"shard 1 .* is not done"):
        rundir.read_shard(1)


def test_a_marker_of_another_plan_is_refused(tmp_path: Path, rundir: RunDirectory) -> None:
    commit(rundir, 0)
    path = tmp_path / "run" / marker_path(0)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"plan": "0" * 64}))
    with pytest.raises(ShardError, match="was made for plan 000000000000"):
        rundir.markers()


def test_a_marker_that_is_not_json_is_named(tmp_path: Path, rundir: RunDirectory) -> None:
    commit(rundir, 0)
    (tmp_path / "run" / marker_path(0)).write_text("{}")
    with pytest.raises(ShardError, match=r"marker .*done/000000\.json cannot be read"):
        rundir.read_shard(0)


def test_a_missing_tar_is_a_clear_error(tmp_path: Path, rundir: RunDirectory) -> None:
    commit(rundir, 0)
    (tmp_path / "run" / shard_path(0)).unlink()
    with pytest.raises(ShardError, match="is missing though its marker is there"):
        rundir.read_shard(0)


def test_candidates_of_all_done_shards_come_as_one_table(rundir: RunDirectory) -> None:
    assert rundir.candidates().num_rows == 0
    commit(rundir, 1)
    commit(rundir, 0)
    table = rundir.candidates()
    assert table.column("shard").to_pylist() == [0] * 9 + [1] * 9
    assert table.column("accepted").to_pylist()[:3] == [True, True, False]


def test_results_are_kept_as_json(rundir: RunDirectory) -> None:
    rundir.write_json("evaluation.json", {"größe": [1, None, 0.5]})
    assert rundir.read_json("evaluation.json") == {"größe": [1, None, 0.5]}
    with pytest.raises(RunDirectoryError, match=r"has no weakness\.json yet"):
        rundir.read_json("weakness.json")


def test_a_run_directory_travels_to_workers(
    tmp_path: Path, rundir: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = RunDirectory.open("run")
    commit(found, 0)
    monkeypatch.chdir("/")
    assert len(pickle.loads(pickle.dumps(found)).read_shard(0)) == 9


def test_a_run_on_an_object_store_has_the_bytes_of_one_in_a_folder(tmp_path: Path, rundir: RunDirectory) -> None:
    commit(rundir, 0)
    run, plan = tiny_plan(tmp_path)
    with local_s3() as root:
        remote = RunDirectory.create(root, run, plan)
        commit(remote, 0)
        assert remote.marker(0).files == rundir.marker(0).files
        assert remote.pending() == [1]
        assert RunDirectory.open(root).run() == run
        assert verify_run(remote) == []
        assert remote.candidates().column("key").equals(rundir.candidates().column("key"))
        remote.storage.write(shard_path(0), b"torn")
        assert [found.path for found in verify_run(remote)] == [shard_path(0)]


def test_a_run_directory_of_format_2_is_refused_by_the_name_of_the_version_that_reads_it(tmp_path: Path) -> None:
    # As revision 38a842f wrote it.
    (tmp_path / "run.json").write_text(
        '{"classes": ["boot"], "digest": "cdb985f0", "format": 2, "images": "jpeg", "keep_rejected": "all", '
        '"name": "wardrobe", "num_shards": 23, "revision": "38a842fb48ca6476c1deeb9a166093558b6e97e0", '
        '"versions": {"counterforge": "0.1.0", "python": "3.11.7"}}'
    )
    with pytest.raises(RunDirectoryError, match=r"has format 2, this version reads format 3: use counterforge 0\.1\.0"):
        RunDirectory.open(str(tmp_path))
