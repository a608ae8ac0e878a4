"""The run directory: where everything of a run lies, and which plan it belongs to.

Readers look at markers only: a shard without one is not there, whatever files lie about.
"""

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from engine.canonical import indented_json
from engine.errors import EngineError, RunDirectoryError, RunFileError, ShardError, UserError
from engine.plan.plan import Plan
from engine.run.attempts import FOLDER as ATTEMPTS
from engine.run.attempts import clear_attempts
from engine.run.info import FORMAT, RUN_INFO, RunInfo, images_of, read_run_info, refuse_other_plan
from engine.run.lease import Lease
from engine.runfile.load import describe_changes, dump_run_file, load_run_file
from engine.runfile.run import RunFile
from engine.sample import Json, Rejection, Sample
from engine.shards.marker import Marker, revision, versions
from engine.shards.tar import decode_shard
from engine.shards.walk import Entry, Shard
from engine.storage.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa

LOG = logging.getLogger(__name__)
RUN_FILE = "run.yaml"
PLAN = "plan.parquet"
SHARDS = "shards"
REJECTED = "rejected"
DONE = "done"
QUARANTINE = "quarantine"
# Where shards are written, and what is noted of them until they are done.
WRITTEN = (SHARDS, REJECTED, DONE, QUARANTINE, ATTEMPTS)
WEAKNESS = "weakness.json"
REINFORCE = "reinforce.json"
EVALUATION = "evaluation.json"
PHASE_LOG = "phases.json"
RETRIES = "retries.json"
# An answer of an object store takes some tens of milliseconds, whatever is asked meanwhile.
NUM_READERS, READ_AT_ONCE = 16, 1024
# Sections of the run file that no image depends on.
CHANGEABLE = {"probe", "reinforce", "report", "limits"}


class RunDirectory:
    """Give the files of one run their names and read them back. Made by `create` or `open`; small, so it may travel.

    `lease` is the right to commit shards, where a process took it; the workers ask it before they write.
    """

    def __init__(self, storage: Storage, info: RunInfo, lease: Lease | None = None) -> None:
        self.storage, self.info, self.lease = storage, info, lease

    @classmethod
    def create(cls, root: str, run: RunFile, plan: Plan) -> "RunDirectory":
        """Make the run directory, or go on in it where it belongs to the same plan.

        Raises RunDirectoryError where it belongs to another plan or holds other things, RunError where it cannot be
        written.
        """
        storage = Storage(root)
        info = RunInfo(
            format=FORMAT,
            name=run.name,
            digest=plan.digest,
            num_shards=plan.num_shards,
            classes=tuple(plan.classes),
            keep_rejected=run.shards.keep_rejected,
            versions=versions(),
            revision=revision(),
            images=images_of(run.stages.values()),
        )
        is_new = not storage.exists(RUN_INFO)
        if is_new:
            refuse_other_contents(storage)
        else:
            refuse_other_plan(storage, read_run_info(storage), info)
        if is_new or not storage.exists(PLAN):
            storage.write(PLAN, plan.to_bytes())
        rundir = cls(storage, info)
        if storage.exists(RUN_FILE):
            with suppress(UserError):  # that of another version cannot be compared
                for change in describe_changes(rundir.run(), run):
                    LOG.info("run.yaml changed: %s", change)
        # What is CHANGEABLE may change within one plan: the run file on disk is the last one used.
        storage.write(RUN_FILE, dump_run_file(run).encode())
        storage.write(RUN_INFO, indented_json(asdict(info)))
        storage.sweep("")
        rundir.tidy()
        return rundir

    @classmethod
    def open(cls, root: str) -> "RunDirectory":
        """Open a run directory that `create` made; RunDirectoryError where there is none."""
        storage = Storage(root)
        return cls(storage, read_run_info(storage))

    def with_lease(self, lease: Lease | None) -> "RunDirectory":
        """Return the same directory, with the right to commit shards while this lease is valid."""
        return RunDirectory(self.storage, self.info, lease)

    def plan(self) -> Plan:
        """Return the plan that the directory was made for."""
        return Plan.from_bytes(self._read_own(PLAN), self.storage.name(PLAN))

    def run(self, overrides: Sequence[str] = ()) -> RunFile:
        """Return the run file that was used last, with overrides applied; all its paths are absolute."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, RUN_FILE)
            path.write_bytes(self._read_own(RUN_FILE))
            return load_run_file(path, overrides)

    def change(self, overrides: Sequence[str], check: Callable[[RunFile, RunFile], None] | None = None) -> RunFile:
        """Apply overrides to the run file on disk and return it; RunFileError where they ask for other images.

        `check` gets the run file before and after, and is called before anything is written.
        """
        before, after = self.run(), self.run(overrides)
        if before.model_dump(exclude=CHANGEABLE) != after.model_dump(exclude=CHANGEABLE):
            raise RunFileError(
                f"--set {' '.join(overrides)}: the images of {self.storage} are made: only fields of "
                f"{', '.join(sorted(CHANGEABLE))} may change; for others give the run file to `counterforge run` with "
                "another --out"
            )
        if check is not None:
            check(before, after)
        if after != before:
            self.storage.write(RUN_FILE, dump_run_file(after).encode())
        for change in describe_changes(before, after):
            LOG.info("run.yaml changed: %s", change)
        return after

    def done(self) -> list[int]:
        """Return the numbers of the shards that are done, from the names of the markers alone."""
        names = (name.removesuffix(".json") for name in self.storage.list(DONE, ".json"))
        return [int(name) for name in names if name.isdigit()]

    def pending(self) -> list[int]:
        """Return the numbers of the shards that are still to be made."""
        return sorted(set(range(self.info.num_shards)) - set(self.done()))

    def marker(self, index: int) -> Marker:
        """Return the marker of one shard; ShardError where it is not done or was made for another plan."""
        path = marker_path(index)
        not_done = f"shard {index} of {self.storage} is not done: run `counterforge generate` first"
        with _missing_is(ShardError(not_done)):
            marker = Marker.from_json(self.storage.read(path), self.storage.name(path))
        if marker.plan != self.info.digest:
            raise ShardError(
                f"{self.storage.name(path)} was made for plan {marker.plan[:12]}, this run has plan "
                f"{self.info.digest[:12]}: delete the marker, then `counterforge generate` makes the shard again"
            )
        return marker

    def markers(self) -> dict[int, Marker]:
        """Return the markers of all shards that are done, by number."""
        done = self.done()
        return dict(zip(done, self.read_markers(done), strict=True))

    def read_markers(self, indexes: Sequence[int]) -> Iterator[Marker]:
        """Yield the markers of some shards as `marker` returns them; from an object store many at a time."""
        if self.storage.is_local:
            yield from map(self.marker, indexes)
            return
        with ThreadPoolExecutor(NUM_READERS) as pool:
            for start in range(0, len(indexes), READ_AT_ONCE):
                yield from pool.map(self.marker, indexes[start : start + READ_AT_ONCE])

    def read_shard(self, index: int) -> list[Sample]:
        """Return the accepted samples of a shard that is done: groups adjacent, each begins with its source."""
        return self._read_tar(index, shard_path(index))

    def walk_shard(self, index: int) -> Iterator[Entry]:
        """Yield what `read_shard` returns, the images still unread where they lie on a local disk."""
        path = shard_path(index)
        if path in self.marker(index).files:
            with _missing_is(self._damage(index, path)):
                yield from Shard(self.storage, path).entries()

    def read_rejected(self, index: int) -> list[Sample]:
        """Return what the verifier turned down: without pixels if keep_rejected is metadata, nothing if it is none."""
        return self._read_tar(index, rejected_path(index))

    def read_quarantine(self, index: int) -> list[Rejection]:
        """Return what could not be processed in a shard that is done."""
        data = self._read(index, quarantine_path(index))
        return [Rejection(**json.loads(line)) for line in data.split(b"\n") if line]

    def candidates(self) -> "pa.Table":
        """Return the rows of every edit in all shards that are done, with the columns of engine/shards/rows.py."""
        from engine.shards.rows import join_candidates

        return join_candidates([self.read_rows(index) for index in self.done()])

    def read_rows(self, index: int) -> "pa.Table":
        """Return the rows of the edits of one shard that is done, with the columns of engine/shards/rows.py."""
        from engine.shards.rows import read_candidates

        return read_candidates(self._read(index, rows_path(index)))

    def read_json(self, name: str) -> Json:
        """Return the content of a result file such as weakness.json; RunDirectoryError where it is not there yet."""
        not_yet = f"{self.storage} has no {name} yet: run the phase that writes it first"
        with _missing_is(RunDirectoryError(not_yet)):
            content: Json = json.loads(self.storage.read(name))
        return content

    def write_json(self, name: str, content: Json) -> None:
        """Write or replace a result file."""
        self.storage.write(name, indented_json(content))

    def tidy(self, *, everyone: bool = False) -> None:
        """Delete what dead processes left of shards; with `everyone` also what any process has of them in work."""
        for folder in WRITTEN:
            self.storage.sweep(folder, everyone=everyone)
        # To list the shards of a large run takes a hundred requests, and most often there is no note.
        if self.storage.list(ATTEMPTS):
            clear_attempts(self.storage, set(self.done()))

    def check_lease(self) -> None:
        """Raise RunDirectoryError where another process has taken over the making of shards."""
        if self.lease is not None:
            self.lease.check()

    def exists(self, name: str) -> bool:
        """Return whether a file of this name is there."""
        return self.storage.exists(name)

    def _read_tar(self, index: int, path: str) -> list[Sample]:
        data = self._read(index, path)
        return decode_shard(data, self.storage.name(path)) if data else []

    def _read_own(self, name: str) -> bytes:
        lost = f"{self.storage} has lost its {name}: `counterforge run` with the same run file writes it again"
        with _missing_is(RunDirectoryError(lost)):
            return self.storage.read(name)

    def _read(self, index: int, path: str) -> bytes:
        """Return a file of a shard that is done, nothing where its marker names no such file."""
        if path not in self.marker(index).files:
            return b""
        with _missing_is(self._damage(index, path)):
            return self.storage.read(path)

    def _damage(self, index: int, path: str) -> ShardError:
        return ShardError(
            f"{self.storage.name(path)} is missing though its marker is there: delete {marker_path(index)}, "
            "then `counterforge generate` makes the shard again"
        )


def shard_path(index: int) -> str:
    """Return where the accepted samples of a shard lie."""
    return f"{SHARDS}/{index:06d}.tar"


def rows_path(index: int) -> str:
    """Return where the parquet rows of a shard lie."""
    return f"{SHARDS}/{index:06d}.parquet"


def rejected_path(index: int) -> str:
    """Return where the rejected samples of a shard lie."""
    return f"{REJECTED}/{index:06d}.tar"


def quarantine_path(index: int) -> str:
    """Return where the samples lie that could not be processed."""
    return f"{QUARANTINE}/{index:06d}.jsonl"


def marker_path(index: int) -> str:
    """Return where the marker of a shard lies."""
    return f"{DONE}/{index:06d}.json"


@contextmanager
def _missing_is(error: EngineError) -> Iterator[None]:
    """Raise this error where a file that is read in the body is missing."""
    try:
        yield
    except FileNotFoundError as missing:
        raise error from missing


def refuse_other_contents(storage: Storage) -> None:
    """Raise RunDirectoryError where a folder that is no run directory holds files."""
    if others := [name for name in storage.list("") if name not in (PLAN, RUN_FILE)]:
        raise RunDirectoryError(
            f"{storage} holds {others[0]!r} and is not a run directory: choose a new or empty folder with --out"
        )
