"""Leases: one process a phase, what the next one is told, and that a woken one can publish nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import tiny_plan, tiny_results

import engine.run.lease
from engine.errors import RunDirectoryError
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory, marker_path
from engine.run.lease import SILENT_S, Holder, Lease, acquire, held, holders
from engine.storage.storage import Storage

# In the background of a shell, where SIGINT is ignored.
HOLD = """
import signal, sys, time
import engine.run.lease
from engine.storage.storage import Storage
engine.run.lease.BEAT_S = 0.1
signal.signal(signal.SIGINT, signal.SIG_IGN)
with engine.run.lease.held(Storage(sys.argv[1]), ["generate"]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


@contextmanager
def holding(storage: Storage) -> Iterator["subprocess.Popen[str]"]:
    """Start a process that holds the phase `generate` for a minute, and end it."""
    command = [sys.executable, "-c", HOLD, storage.root]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_is_told_who_holds_the_run_and_how_to_take_it_over(storage: Storage) -> None:
    with holding(storage) as process, pytest.raises(RunDirectoryError) as caught:
        acquire(storage, "generate")
    message = str(caught.value)
    assert f"(process {process.pid}), since 20" in message
    assert Holder.here().host in message
    assert "--take-over" in message


def test_what_a_dead_process_held_is_free(storage: Storage) -> None:
    with holding(storage) as process:
        assert set(holders(storage)) == {"generate"}
        process.kill()
        process.wait()
        assert holders(storage) == {}
        lease, _ = acquire(storage, "generate")
    assert lease.number == 2


def test_another_process_of_the_same_number_holds_nothing(storage: Storage) -> None:
    lease, holder = acquire(storage, "generate")
    assert holders(storage) == {"generate": holder}
    lease.write(replace(holder, started=holder.started - 60))
    assert holders(storage) == {}


def test_another_machine_holds_it_until_it_was_silent_for_long(storage: Storage) -> None:
    lease, holder = acquire(storage, "generate")
    elsewhere = replace(holder, host="elsewhere")
    lease.write(elsewhere)
    with pytest.raises(RunDirectoryError, match="on elsewhere"):
        acquire(storage, "generate")
    lease.write(replace(elsewhere, seen=time.time() - SILENT_S - 1))
    assert acquire(storage, "generate")[0].number == 2


def test_phases_are_held_apart_and_given_back(storage: Storage) -> None:
    with held(storage, ["generate", "probe"]), held(storage, ["reinforce"]):
        assert set(holders(storage)) == {"generate", "probe", "reinforce"}
        with pytest.raises(RunDirectoryError, match="probe is held"), held(storage, ["report", "probe"]):
            pass
        assert "report" not in holders(storage)
    assert holders(storage) == {}


def test_of_two_that_come_at_once_one_gets_it(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    create, rivals = Storage.create, []

    def late(self: Storage, path: str, data: bytes) -> bool:
        # The rival is quicker by the moment between the look and the creation.
        if not rivals:
            rivals.append(path)
            acquire(storage, "generate")
        return create(self, path, data)

    monkeypatch.setattr(Storage, "create", late)
    with pytest.raises(RunDirectoryError, match="generate is held"):
        acquire(storage, "generate")
    assert len(storage.list("leases")) == 1


def test_a_process_that_was_taken_over_cannot_commit(tmp_path: Path) -> None:
    run, plan = tiny_plan(tmp_path)
    rundir = RunDirectory.create(str(tmp_path / "run"), run, plan)
    rundir.lease, _ = acquire(rundir.storage, "generate")
    commit_shard(rundir, 0, plan.keys(0), tiny_results(plan, 0), {})
    acquire(rundir.storage, "generate", take_over=True)
    with pytest.raises(RunDirectoryError, match="has taken generate over"):
        commit_shard(rundir, 1, plan.keys(1), tiny_results(plan, 1), {})
    assert rundir.done() == [0]
    assert not rundir.exists(marker_path(1))
    assert not rundir.exists("shards/000001.tar")


def test_a_process_that_was_paused_and_taken_over_ends_when_it_wakes_up(storage: Storage) -> None:
    with holding(storage) as process:
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(RunDirectoryError, match="generate is held"):
            acquire(storage, "generate")
        acquire(storage, "generate", take_over=True)
        os.kill(process.pid, signal.SIGCONT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "has taken generate over from this process" in said


def take_over_from_oneself(storage: Storage) -> None:
    with held(storage, ["generate"]):
        acquire(storage, "generate", take_over=True)
        time.sleep(30)


def test_the_main_thread_is_interrupted_and_told_why(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.run.lease, "BEAT_S", 0.05)
    with pytest.raises(RunDirectoryError, match="has taken generate over"):
        take_over_from_oneself(storage)


def test_signs_of_life_are_written(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.run.lease, "BEAT_S", 0.05)
    with held(storage, ["generate"]) as leases:
        first = holders(storage)["generate"].seen
        deadline = time.monotonic() + 30
        while holders(storage)["generate"].seen == first and time.monotonic() < deadline:
            time.sleep(0.02)
        assert holders(storage)["generate"].seen > first
        assert leases["generate"] == Lease(storage=storage, phase="generate", number=1)


def test_a_lease_that_cannot_be_read_names_its_file(storage: Storage) -> None:
    acquire(storage, "generate")
    storage.write("leases/generate-000001.json", b"{")
    with pytest.raises(RunDirectoryError, match=r"leases/generate-000001\.json cannot be read"):
        acquire(storage, "generate")
