"""A run that is paused, taken over, killed and started again holds the same bytes as one that was left alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from repository import PYTHONPATH, ROOT
from tint_runs import NUM_SHARDS, contents, make_in_process, tint_run, write_images

from engine.audit.files import verify_run
from engine.run.directory import RunDirectory
from engine.runfile.load import dump_run_file

# The program as from a terminal: a test run in the background of a shell hands on that SIGINT is ignored.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from cluster.cli.main import main
sys.exit(main())
"""


def start(run_file: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    """Start `counterforge generate` as a process group of its own, which takes its Ray with it."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "generate", str(run_file), "--out", str(out), *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": PYTHONPATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_shards(process: subprocess.Popen[str], out: Path, count: int) -> None:
    while process.poll() is None and len(list((out / "done").glob("*.json"))) < count:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=250)
    return process.returncode, output, errors


@pytest.mark.slow
def test_paused_taken_over_and_killed_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    # Slow enough in each shard that what happens to it comes in the middle; the sleep is an option, so all have it.
    # One actor for both stages takes half as long to start.
    images = write_images(tmp_path / "images")
    run = tint_run(images, tint={"sleep_s": 0.8}, grouped=True)
    run_file, out = tmp_path / "run.yaml", tmp_path / "run"
    run_file.write_text(dump_run_file(run))
    paused = start(run_file, out)
    wait_for_shards(paused, out, 1)
    # The driver alone: its workers go on for a while, and are to be fenced off too.
    os.kill(paused.pid, signal.SIGSTOP)
    code, _, errors = finish(start(run_file, out))
    assert code == 2
    assert f"(process {paused.pid}), since" in errors
    killed = start(run_file, out, "--take-over")
    wait_for_shards(killed, out, 3)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    rundir = RunDirectory.open(str(out))
    done = rundir.done()
    assert len(done) < NUM_SHARDS
    os.kill(paused.pid, signal.SIGCONT)
    code, _, errors = finish(paused)
    assert code == 2
    assert "has taken generate over from this process" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert rundir.done() == done
    # Nobody has to take over from the dead.
    code, output, errors = finish(start(run_file, out))
    assert (code, f"{NUM_SHARDS}/{NUM_SHARDS} shards" in output) == (0, True), errors
    # Nobody sleeps there, nor do stages share an actor.
    make_in_process(tint_run(images), tmp_path / "calm", range(NUM_SHARDS))
    assert contents(tmp_path / "calm") == contents(out)
    assert verify_run(rundir) == []


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_is_one_line_and_keeps_what_is_done(tmp_path: Path, stop: signal.Signals, expected: int) -> None:
    run = tint_run(write_images(tmp_path / "images"), tint={"sleep_s": 0.8}, grouped=True)
    run_file = tmp_path / "run.yaml"
    run_file.write_text(dump_run_file(run))
    process = start(run_file, tmp_path / "run")
    wait_for_shards(process, tmp_path / "run", 1)
    process.send_signal(stop)
    code, _, errors = finish(process)
    assert code == expected
    assert errors.splitlines()[-1] == (
        "counterforge: stopped. Finished shards are kept; the same command goes on from there"
    )
    assert "Traceback" not in errors
    rundir = RunDirectory.open(str(tmp_path / "run"))
    assert 0 < len(rundir.done()) < NUM_SHARDS
    assert verify_run(rundir) == []
    assert rundir.read_json("phases.json")["seconds"]["generate"] > 0  # type: ignore[index, call-overload]
