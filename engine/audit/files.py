"""Verify a run: hash every file again, compare it with its marker, and have damaged shards made again."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from engine.errors import RunError, ShardError
from engine.run.directory import RunDirectory, marker_path
from engine.run.lease import held
from engine.shards.marker import FileRecord, describe_change
from engine.storage.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A file that differs from its marker, and how."""

    shard: int
    path: str
    what: str

    def __str__(self) -> str:
        """Return the path and the difference."""
        return f"{self.path}: {self.what}"


def verify_run(rundir: RunDirectory) -> list[Difference]:
    """Return every difference between the markers and the stored files; an empty list means that none is damaged."""
    return [difference for index in rundir.done() for difference in verify_shard(rundir, index)]


def verify_shard(rundir: RunDirectory, index: int) -> Iterator[Difference]:
    """Yield the differences of one finished shard."""
    try:
        marker = rundir.marker(index)
    except ShardError as error:
        yield Difference(shard=index, path=marker_path(index), what=str(error))
        return
    if index != marker.shard or index >= rundir.info.num_shards:
        wrong = f"is the marker of shard {marker.shard}; the plan has the shards 0 to {rundir.info.num_shards - 1}"
        yield Difference(shard=index, path=marker_path(index), what=wrong)
    for path, record in sorted(marker.files.items()):
        if what := _difference(rundir.storage, path, record):
            yield Difference(shard=marker.shard, path=path, what=what)


def describe_makers(rundir: RunDirectory) -> list[str]:
    """Return how many shards were made with other versions or on other machines than the first one, and with which."""
    markers = rundir.read_markers(rundir.done())
    if (first := next(markers, None)) is None:
        return []
    changes = Counter(change for marker in markers if (change := describe_change(first.versions, marker.versions)))
    return [f"{count} made with {change} as shard {first.shard} was" for change, count in changes.most_common()]


def forget_shards(rundir: RunDirectory, shards: Iterable[int], *, take_over: bool = False) -> None:
    """Delete the markers of shards, so that `run` and `generate` make these again.

    Raises RunDirectoryError where another process generates in this run.
    """
    with held(rundir.storage, ("generate",), take_over=take_over):
        for index in shards:
            rundir.storage.delete(marker_path(index))


def _difference(storage: Storage, path: str, record: FileRecord) -> str | None:
    """Return how a file differs, None if it does not; the size is compared first, since it is cheap."""
    try:
        size = storage.size(path)
        if size is None:
            return "is missing"
        if size != record.bytes:
            return f"has {size} bytes, its marker says {record.bytes}"
        found = storage.digest(path).blake3
    except (FileNotFoundError, RunError) as error:
        return f"cannot be read: {error}"
    if found != record.blake3:
        return f"has BLAKE3 {found[:16]}..., its marker says {record.blake3[:16]}...: its bytes changed"
    return None
