"""A `counterforge generate` in a process of its own, and the processes that work for it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from cluster.session.session import python_path
from engine.errors import RunError

# A killed driver takes its Ray with it. Its processes notice it by themselves, most within seconds; Ray's agents
# try for a minute to tell a head that is gone that their node is gone.
GONE_S = 90.0
POOL = re.compile(r"^ray::MapWorker\(MapBatches\((?P<pool>.+)\)\)")
TASK = re.compile(r"^ray::(MapBatches\(_commit_block\)|Read\w+)")
TASKS = "task"
NUM_LOG_LINES = 5


class Driver:
    """Start the program as a user does; its words go to the end of a log file.

    With an `address` it joins the cluster there, else it starts a Ray of its own.
    """

    def __init__(self, run_file: Path, out: Path, log: Path, address: str | None = None) -> None:
        # A cluster whose nodes come and go may have none just now: it is asked for what it will have.
        options = [] if address is None else ["--address", address, "--autoscaling"]
        self._log = log
        with log.open("a") as file:
            self._process = subprocess.Popen(  # nosec B603 # this program, with paths of ours
                [sys.executable, "-m", "cluster.cli.main", "generate", str(run_file), "--out", str(out), *options],
                env=os.environ | {"PYTHONPATH": python_path()},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def is_running(self) -> bool:
        """Return whether it has not ended yet."""
        return self._process.poll() is None

    def ended_well(self) -> bool:
        """Return whether it has ended with exit code 0."""
        return self._process.poll() == 0

    def last_words(self) -> str:
        """Return the last lines of its log, as one."""
        return " / ".join(self._log.read_text(errors="replace").splitlines()[-NUM_LOG_LINES:])

    def processes(self) -> list[psutil.Process]:
        """Return the processes that it has started, and those that they have."""
        try:
            return list(psutil.Process(self._process.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return []

    def kill(self, others: Sequence[psutil.Process] = ()) -> None:
        """Send SIGKILL to it, then to others, with nothing in between."""
        self._process.send_signal(signal.SIGKILL)
        kill_all(others)
        self._process.wait()

    def finish(self, timeout_s: float) -> None:
        """Wait until it has ended well; RunError with its last words where it has not, or has not in time."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill(self.processes())
            code = None
        if code != 0:
            how = f"did not end in {timeout_s:.0f} s" if code is None else f"ended with exit code {code}"
            raise RunError(f"a run that nobody disturbed any more {how}; {self._log} ends with: {self.last_words()}")


def pool_of(process: psutil.Process) -> str | None:
    """Return the stages of the actor in a process of Ray's, `task` for one that reads or commits, else None."""
    try:
        title = " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return None
    if match := POOL.match(title):
        return match["pool"]
    return TASKS if TASK.match(title) else None


def kill_all(processes: Sequence[psutil.Process]) -> None:
    """Send SIGKILL to processes, also where some have ended meanwhile."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def outlast(processes: Sequence[psutil.Process], until: float) -> int:
    """Wait until processes have ended by themselves; at `until` (monotonic) end those left, and return how many."""
    _, alive = psutil.wait_procs(processes, timeout=max(until - time.monotonic(), 0))
    kill_all(alive)
    psutil.wait_procs(alive)
    return len(alive)
