"""A `counterforge generate` in its own process, and its worker processes."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from cluster.dataflow.blocks import commit_block
from cluster.session.imports import worker_environment
from engine.errors import RunError

# When a driver is killed its Ray processes end by themselves, most within seconds; Ray's agents try for a minute to
# reach the head.
GONE_S = 90.0
POOL = re.compile(r"^ray::MapWorker\(MapBatches\((?P<pool>.+)\)\)")
TASK = re.compile(rf"^ray::(MapBatches\({commit_block.__name__}\)|Read\w+)")
TASKS = "task"
NUM_LOG_LINES = 5


class Driver:
    """Start the program as a user does; its output is appended to a log file.

    With an `address` it joins the cluster there, else it starts its own Ray session.
    """

    def __init__(self, run_file: Path, out: Path, log: Path, address: str | None = None) -> None:
        # --autoscaling: the cluster may have no node at this moment.
        options = [] if address is None else ["--address", address, "--autoscaling"]
        self._log = log
        with log.open("a") as file:
            self._process = subprocess.Popen(  # nosec B603 # this program, with paths of ours
                [sys.executable, "-m", "cluster.cli.main", "generate", str(run_file), "--out", str(out), *options],
                # It finds the plugins that this process finds.
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, worker_environment().values()))},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def exit_code(self) -> int | None:
        """Return its exit code, None while it runs."""
        return self._process.poll()

    def log_end(self) -> str:
        """Return the last lines of its log, joined."""
        return " / ".join(self._log.read_text(errors="replace").splitlines()[-NUM_LOG_LINES:])

    def processes(self) -> list[psutil.Process]:
        """Return all of its descendant processes."""
        try:
            return list(psutil.Process(self._process.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return []

    def kill(self, others: Sequence[psutil.Process] = ()) -> None:
        """Send SIGKILL to it and at once to others."""
        self._process.send_signal(signal.SIGKILL)
        kill_all(others)
        self._process.wait()

    def finish(self, timeout_s: float) -> None:
        """Wait for exit code 0; RunError with the end of its log for another code, or after `timeout_s`."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill(self.processes())
            code = None
        if code != 0:
            how = f"did not end in {timeout_s:.0f} s" if code is None else f"ended with exit code {code}"
            raise RunError(f"a run without further faults {how}; {self._log} ends with: {self.log_end()}")


def pool_of(process: psutil.Process) -> str | None:
    """Return the stages of an actor's process, `task` for a process that reads or commits, else None."""
    try:
        title = " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return None
    if match := POOL.match(title):
        return match["pool"]
    return TASKS if TASK.match(title) else None


def kill_all(processes: Sequence[psutil.Process]) -> None:
    """Send SIGKILL to processes; some may have ended."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def outlast(processes: Sequence[psutil.Process], until: float) -> int:
    """Wait for processes to end; at `until` (monotonic) kill those left, and return their number."""
    _, alive = psutil.wait_procs(processes, timeout=max(until - time.monotonic(), 0))
    kill_all(alive)
    psutil.wait_procs(alive)
    return len(alive)
