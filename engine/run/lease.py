"""Who may write to a run directory: one process at a time for each phase; a later one fences an earlier one off.

A lease is a numbered file, `leases/generate-000003.json`, that is made only if no other has made it. The highest number
holds the phase. Its holder rewrites it now and then as a sign of life, and everyone who commits for it asks first
whether a higher number is there (the fencing token of Gray & Cheriton 1989, as told by Kleppmann 2016). So a process
that was paused while another took over cannot publish when it wakes up.
"""

import getpass
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from engine.canonical import indented_json
from engine.errors import EngineError, RunDirectoryError
from engine.interrupt import interruptible
from engine.storage.storage import Storage

LOG = logging.getLogger(__name__)
FOLDER = "leases"
BEAT_S = 10.0
# After as long without a sign of life another process takes over unasked: it is fenced off in any case.
SILENT_S = 300.0
# The start of a process is counted from that of the machine, which moves when its clock is set.
STARTED_WITHIN_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Hold who took a lease, and when it was last heard of: seconds since 1970 by its own clock."""

    host: str
    pid: int
    # Another process may have its number later: seconds since 1970 when it was started.
    started: float
    user: str
    command: str
    since: float
    seen: float
    released: bool = False

    @classmethod
    def here(cls) -> "Holder":
        """Return this process, now."""
        now = time.time()
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            started=_started(os.getpid()) or now,
            user=_user(),
            command=" ".join((Path(sys.argv[0]).name, *sys.argv[1:2])),
            since=now,
            seen=now,
        )

    def is_gone(self) -> bool:
        """Return whether it gave the lease back, died on this machine, or was silent for long."""
        if self.released:
            return True
        if self.host == socket.gethostname():
            started = _started(self.pid)
            return started is None or abs(started - self.started) > STARTED_WITHIN_S
        return time.time() - self.seen > SILENT_S

    def describe(self) -> str:
        """Return who and since when, for messages."""
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"`{self.command}` of {self.user} on {self.host} (process {self.pid}), since {since}"


@dataclass(frozen=True, kw_only=True)
class Lease:
    """Hold the right to write what one phase writes. Small and without state, so that it travels to workers."""

    storage: Storage
    phase: str
    number: int

    def check(self) -> None:
        """Raise RunDirectoryError where another process has taken the phase over."""
        if self.storage.exists(_path(self.phase, self.number + 1)):
            last = _read(self.storage, self.phase, _numbers(self.storage, self.phase)[-1])
            raise RunDirectoryError(
                f"{self.storage}: {last.describe()}, has taken {self.phase} over from this process, which writes "
                "nothing more. Shards that are done are kept"
            )

    def write(self, holder: Holder) -> None:
        """Write a sign of life, or that the lease is given back."""
        self.storage.write(_path(self.phase, self.number), indented_json(asdict(holder)))


def acquire(storage: Storage, phase: str, *, take_over: bool = False) -> tuple[Lease, Holder]:
    """Take the lease of a phase for this process, also from a holder that is gone, or from any with `take_over`.

    Raises RunDirectoryError that names the holder, since when it holds the phase, and how to take it over.
    """
    while True:
        numbers = _numbers(storage, phase)
        last = numbers[-1] if numbers else 0
        if numbers and not take_over and not (holder := _read(storage, phase, last)).is_gone():
            raise RunDirectoryError(
                f"{storage}: {phase} is held by {holder.describe()}; its last sign of life is "
                f"{max(time.time() - holder.seen, 0):.0f} s old. Wait for it or stop it; if you know that it is dead, "
                "or want to go on without it, the same command with --take-over does so, and nothing that it still "
                "makes is taken"
            )
        lease, holder = Lease(storage=storage, phase=phase, number=last + 1), Holder.here()
        # Only one of two that come at once makes the file; the other looks again and finds it held.
        # An object store may make it, lose its answer, and say at the second try that it is there: then it is ours.
        is_new = storage.create(_path(phase, lease.number), indented_json(asdict(holder)))
        if is_new or _read(storage, phase, lease.number) == holder:
            return lease, holder


def holders(storage: Storage) -> dict[str, Holder]:
    """Return who holds which phase of a run now."""
    phases = sorted({name.rpartition("-")[0] for name in storage.list(FOLDER, ".json")})
    last = {phase: _read(storage, phase, _numbers(storage, phase)[-1]) for phase in phases}
    return {phase: holder for phase, holder in last.items() if not holder.is_gone()}


@contextmanager
def held(storage: Storage, phases: Iterable[str], *, take_over: bool = False) -> Iterator[dict[str, Lease]]:
    """Hold the leases of some phases; where another takes one over, interrupt this process: RunDirectoryError."""
    stop, lost = threading.Event(), threading.Event()
    with ExitStack() as stack:
        holders: dict[Lease, Holder] = {}
        stack.callback(_give_back, holders)
        for phase in dict.fromkeys(phases):
            lease, holder = acquire(storage, phase, take_over=take_over)
            holders[lease] = holder
        interrupt = stack.enter_context(interruptible())
        watcher = threading.Thread(target=_keep, args=(holders, stop, lost, interrupt), name="leases", daemon=True)
        watcher.start()
        stack.callback(watcher.join)
        stack.callback(stop.set)
        try:
            yield {lease.phase: lease for lease in holders}
        except KeyboardInterrupt:
            if lost.is_set():
                _check(holders)
            raise
        _check(holders)


def _keep(
    holders: Mapping[Lease, Holder], stop: threading.Event, lost: threading.Event, interrupt: Callable[[], None]
) -> None:
    """Show signs of life until `stop`; where another has taken over, set `lost` and interrupt the main thread."""
    while not (lost.is_set() or stop.wait(BEAT_S)):
        try:
            _check(holders)
            for lease, holder in holders.items():
                lease.write(replace(holder, seen=time.time()))
        except RunDirectoryError:
            lost.set()
            # It may wait for a cluster that works for nobody any more.
            interrupt()
        except EngineError as error:
            LOG.warning("no sign of life could be written, trying again: %s", error)


def _check(leases: Iterable[Lease]) -> None:
    for lease in leases:
        lease.check()


def _give_back(holders: Mapping[Lease, Holder]) -> None:
    for lease, holder in holders.items():
        with suppress(EngineError):  # what went wrong before it is what the user must hear of
            lease.write(replace(holder, seen=time.time(), released=True))


def _numbers(storage: Storage, phase: str) -> list[int]:
    names = (name.removesuffix(".json").rpartition("-") for name in storage.list(FOLDER, ".json"))
    return sorted(int(number) for found, _, number in names if found == phase and number.isdigit())


def _read(storage: Storage, phase: str, number: int) -> Holder:
    path = _path(phase, number)
    try:
        return Holder(**json.loads(storage.read(path)))
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise RunDirectoryError(
            f"{storage.name(path)} cannot be read ({error}): if no other process works on this run, delete it"
        ) from error


def _path(phase: str, number: int) -> str:
    return f"{FOLDER}/{phase}-{number:06d}.json"


def _started(pid: int) -> float | None:
    """Return when a process of this machine was started, None where it has ended."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
