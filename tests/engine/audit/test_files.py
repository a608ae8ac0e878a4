"""Verify: every flipped bit, cut file and lost file of a run is found."""

import json
from pathlib import Path

import pytest
from tiny_runs import tiny_plan, tiny_results

from engine.audit.files import describe_makers, verify_run
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory, marker_path, quarantine_path, rejected_path, rows_path, shard_path


@pytest.fixture
def rundir(tmp_path: Path) -> RunDirectory:
    run, plan = tiny_plan(tmp_path)
    rundir = RunDirectory.create(str(tmp_path / "run"), run, plan)
    for index in range(plan.num_shards):
        commit_shard(rundir, index, plan.keys(index), tiny_results(plan, index), {})
    return rundir


def test_a_run_as_it_was_written_has_no_difference(rundir: RunDirectory) -> None:
    assert verify_run(rundir) == []


@pytest.mark.parametrize("name", [shard_path, rows_path, rejected_path, quarantine_path])
def test_one_flipped_bit_is_found(rundir: RunDirectory, name: object) -> None:
    path = rundir.storage.local_path(name(1))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    differences = verify_run(rundir)
    assert [(found.shard, found.path) for found in differences] == [(1, name(1))]
    assert "its bytes changed" in str(differences[0])


def test_a_missing_file_is_found(rundir: RunDirectory) -> None:
    rundir.storage.delete(rows_path(0))
    assert list(map(str, verify_run(rundir))) == ["shards/000000.parquet: is missing"]


def test_a_cut_file_is_found(rundir: RunDirectory) -> None:
    path = rundir.storage.local_path(shard_path(0))
    data = path.read_bytes()
    path.write_bytes(data[:-512])
    assert list(map(str, verify_run(rundir))) == [
        f"shards/000000.tar: has {len(data) - 512} bytes, its marker says {len(data)}"
    ]


def test_a_damaged_marker_is_found(rundir: RunDirectory) -> None:
    rundir.storage.write(marker_path(0), b"{")
    (difference,) = verify_run(rundir)
    assert difference.path == marker_path(0)
    assert "cannot be read" in difference.what


def test_shards_of_other_versions_and_machines_are_counted(rundir: RunDirectory) -> None:
    assert describe_makers(rundir) == []
    marker = json.loads(rundir.storage.read(marker_path(0)))
    for index, machine in enumerate(("AMD EPYC (avx2)", "NVIDIA H200")):
        versions = marker["versions"] | {"machine": machine}
        record = json.loads(rundir.storage.read(marker_path(index))) | {"versions": versions}
        rundir.storage.write(marker_path(index), json.dumps(record).encode())
    assert describe_makers(rundir) == ["1 made with machine NVIDIA H200, not AMD EPYC (avx2) as shard 0 was"]
    assert verify_run(rundir) == []


def test_a_marker_under_another_number_is_found(rundir: RunDirectory) -> None:
    rundir.storage.write(marker_path(7), rundir.storage.read(marker_path(0)))
    (difference,) = verify_run(rundir)
    assert str(difference) == "done/000007.json: is the marker of shard 0; the plan has the shards 0 to 1"


def test_a_marker_of_another_plan_is_found(rundir: RunDirectory) -> None:
    record = json.loads(rundir.storage.read(marker_path(1)))
    rundir.storage.write(marker_path(1), json.dumps(record | {"plan": "f" * 64}).encode())
    (difference,) = verify_run(rundir)
    assert "was made for plan ffffffffffff" in difference.what


def test_a_shard_without_a_marker_is_not_a_difference(rundir: RunDirectory) -> None:
    rundir.storage.delete(marker_path(1))
    rundir.storage.delete(shard_path(1))
    assert verify_run(rundir) == []
