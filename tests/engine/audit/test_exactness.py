"""Two runs of one plan are compared by what lies in them now, and a finished one is tidy."""

import shutil
from pathlib import Path

import pytest
from tiny_runs import tiny_plan, tiny_results

from engine.audit.exactness import compare_runs
from engine.plan.plan import Plan
from engine.run.attempts import Attempts
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory
from engine.runfile.run import RunFile
from engine.storage.storage import Storage


@pytest.fixture
def planned(tmp_path: Path) -> tuple[RunFile, Plan]:
    return tiny_plan(tmp_path)


def make(planned: tuple[RunFile, Plan], out: Path, shards: tuple[int, ...] = (0, 1)) -> RunDirectory:
    run, plan = planned
    rundir = RunDirectory.create(str(out), run, plan)
    for index in shards:
        commit_shard(rundir, index, plan.keys(index), tiny_results(plan, index), {})
    return rundir


def test_two_runs_of_one_plan_are_alike(planned: tuple[RunFile, Plan], tmp_path: Path) -> None:
    found = compare_runs(make(planned, tmp_path / "a"), make(planned, tmp_path / "b"))
    assert found.is_exact
    # Six groups of a source, its placebo, an accepted and a rejected edit, and one that was given up.
    assert found.num_samples == 30


def test_a_shard_that_is_missing_is_lost_sample_by_sample(planned: tuple[RunFile, Plan], tmp_path: Path) -> None:
    calm = make(planned, tmp_path / "a")
    found = compare_runs(calm, make(planned, tmp_path / "b", (0,)))
    assert len(found.lost) == 15
    assert "shards/000001.tar" in found.different
    assert not found.duplicated


def test_a_sample_that_is_there_twice_is_named(planned: tuple[RunFile, Plan], tmp_path: Path) -> None:
    _, plan = planned
    calm, other = make(planned, tmp_path / "a"), make(planned, tmp_path / "b", (0,))
    # Shard 1 made of the sources of shard 0.
    commit_shard(other, 1, plan.keys(0), tiny_results(plan, 0), {})
    found = compare_runs(calm, other)
    assert len(found.duplicated) == 15
    assert set(found.duplicated) == {result.key for result in tiny_results(plan, 0)}


def test_a_byte_that_changed_and_a_file_without_marker_are_named(planned: tuple[RunFile, Plan], tmp_path: Path) -> None:
    calm, other = make(planned, tmp_path / "a"), make(planned, tmp_path / "b")
    path = tmp_path / "b/shards/000000.parquet"
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    shutil.copy(tmp_path / "b/rejected/000000.tar", tmp_path / "b/rejected/000007.tar")
    found = compare_runs(calm, other)
    assert found.different == ("shards/000000.parquet",)
    assert found.leftover == ("rejected/000007.tar",)
    assert not found.is_exact


def test_what_dead_writers_left_is_named_and_tidied_away(planned: tuple[RunFile, Plan], tmp_path: Path) -> None:
    calm, other = make(planned, tmp_path / "a"), make(planned, tmp_path / "b", (0,))
    left = tmp_path / "b/shards/.000001.tar.tmp~elsewhere~77~abcdef01"
    left.write_bytes(b"half")
    for shard in (0, 1):
        Attempts(storage=other.storage, where="editor").begin(shard)
    assert compare_runs(calm, other).leftover == (
        f"shards/{left.name}",
        "attempts/000000-editor.json",
        "attempts/000001-editor.json",
    )
    # Another machine may still write, and shard 1 is to be made: who only opens the run leaves these.
    other.tidy()
    assert Storage(str(tmp_path / "b")).unfinished("shards") == [left.name]
    assert other.storage.list("attempts") == ["000001-editor.json"]
    other.tidy(everyone=True)
    assert Storage(str(tmp_path / "b")).unfinished("shards") == []
