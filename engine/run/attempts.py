"""Attempts: what a worker notes of the shard it has at work, so that the next one knows what ended it.

A worker that is killed (native crash, out of memory, a lost machine) says nothing. So it leaves a note before it
begins, and takes it away at the end: `attempts/000123-editor+verifier.json`.
"""

import faulthandler
import hashlib
import json
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from engine.sample import Rejection, Sample
from engine.storage.storage import Storage

FOLDER = "attempts"
# A sample is given up once as many workers ended while it alone was at work: some may have been lost machines. With 2
# one of 2,400 good samples was given up in 100 kills, one every 12 s or so.
STRIKES = 3


@dataclass(frozen=True, kw_only=True)
class Note:
    """Hold how often a shard was begun and not ended, and what is known of the reason.

    `since` is when it was begun the last time, in seconds since 1970. `unit` is the part that is at work alone, None
    where the whole shard is. `strikes` counts the workers that ended with a unit; `stuck` says where one was that ran
    out of time.
    """

    begun: int = 0
    since: float | None = None
    unit: str | None = None
    strikes: Mapping[str, int] = field(default_factory=dict)
    stuck: Mapping[str, str] = field(default_factory=dict)

    def after_a_death(self, last_words: str) -> "Note":
        """Return the note with the blame for the unit that was at work when the last worker ended."""
        if self.unit is None:
            return self
        strikes = {**self.strikes, self.unit: self.strikes.get(self.unit, 0) + 1}
        stuck = {**self.stuck, self.unit: _innermost(last_words)} if last_words else self.stuck
        return replace(self, unit=None, strikes=strikes, stuck=stuck)


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """Keep the notes of the shards that go through the stages `where`. Small, so that it travels to workers."""

    storage: Storage
    where: str

    def begin(self, shard: int) -> Note:
        """Note that a shard is begun; return what earlier attempts left, counting this one."""
        words = self.last_words(shard)
        earlier = _read(self.storage, self._path(shard))
        note = earlier.after_a_death(words.read_text() if words.exists() else "")
        words.unlink(missing_ok=True)
        return self._write(shard, replace(note, begun=note.begun + 1, since=time.time()))

    def narrow(self, shard: int, note: Note, unit: str | None) -> Note:
        """Note that one unit of the shard is at work alone, or none any more."""
        return self._write(shard, replace(note, unit=unit, since=time.time()))

    def end(self, shard: int) -> None:
        """Take the note away: the stages have answered for the whole shard."""
        self.storage.delete(self._path(shard))
        self.last_words(shard).unlink(missing_ok=True)

    def last_words(self, shard: int) -> Path:
        """Return the file in which a worker that runs out of time leaves where it was.

        It is written without the interpreter, so it lies on a local disk: of an object store only this machine's.
        """
        if self.storage.is_local:
            return self.storage.local_path(self._path(shard)).with_suffix(".stuck")
        name = f"counterforge-{hashlib.sha256(self.storage.name(self._path(shard)).encode()).hexdigest()[:16]}.stuck"
        return Path(tempfile.gettempdir(), name)

    def _path(self, shard: int) -> str:
        return f"{FOLDER}/{shard:06d}-{self.where}.json"

    def _write(self, shard: int, note: Note) -> Note:
        # Not synced: a note tells of workers that died, and costs a GPU two waits for the disk a shard if it is.
        self.storage.write(self._path(shard), json.dumps(asdict(note), sort_keys=True).encode(), synced=False)
        return note


@dataclass(frozen=True, kw_only=True)
class AtWork:
    """Hold what is at work, by its note: a shard, or a part of it, in some stages, for `seconds`.

    It was `begun` so many times: all but the last were not ended.
    """

    shard: int
    where: str
    unit: str | None
    seconds: float
    begun: int

    def describe(self) -> str:
        """Return what is at work, for people."""
        part = f"shard {self.shard}" if self.unit is None else f"{self.unit} of shard {self.shard}, alone,"
        return f"{self.where} has {part} at work for {self.seconds:.0f} s"


def longest_at_work(storage: Storage) -> AtWork | None:
    """Return what has been at work for longest, None where nothing is."""
    return max(at_work(storage), key=lambda work: work.seconds, default=None)


def at_work(storage: Storage) -> list[AtWork]:
    """Return what is at work, or was when its workers ended, by shard. Clocks of machines should agree."""
    now, found = time.time(), list[AtWork]()
    for name in storage.list(FOLDER, ".json"):
        shard, _, where = name.removesuffix(".json").partition("-")
        note = _read(storage, f"{FOLDER}/{name}")
        if note.since is not None:
            seconds = max(now - note.since, 0.0)
            found.append(AtWork(shard=int(shard), where=where, unit=note.unit, seconds=seconds, begun=note.begun))
    return found


def watched(results: Iterator[Sample | Rejection], limit_s: float, stack_dump: Path) -> Iterator[Sample | Rejection]:
    """Yield the results of a stage; if none comes for `limit_s` seconds, dump all thread stacks and exit the process.

    faulthandler, since its thread is written in C: a loop in native code holds the interpreter, and no Python thread
    would run. Ray starts another worker, which reads `stack_dump`.
    """
    with stack_dump.open("w") as file:
        try:
            faulthandler.dump_traceback_later(limit_s, exit=True, file=file)
            for result in results:
                faulthandler.cancel_dump_traceback_later()
                yield result
                faulthandler.dump_traceback_later(limit_s, exit=True, file=file)
        finally:
            faulthandler.cancel_dump_traceback_later()


def _read(storage: Storage, path: str) -> Note:
    try:
        return Note(**json.loads(storage.read(path)))
    except (FileNotFoundError, ValueError, TypeError):
        # None, or one that another version wrote: begin anew.
        return Note()


def _innermost(traceback: str) -> str:
    """Return the file, line and function in which the thread was that ran the stage, from faulthandler's words."""
    threads = [part for part in traceback.split("Thread 0x") if f" in {watched.__name__}" in part]
    found = re.search(r'File "(?:.*/)?([^"/]+)", line (\d+) in (\S+)', threads[0]) if threads else None
    return f"{found[1]}:{found[2]} in {found[3]}" if found else "an unknown place"


def clear_attempts(storage: Storage, done: set[int]) -> None:
    """Delete what lost workers noted of shards that others have finished since."""
    for name in storage.list(FOLDER):
        if name[:6].isdigit() and int(name[:6]) in done:
            storage.delete(f"{FOLDER}/{name}")
