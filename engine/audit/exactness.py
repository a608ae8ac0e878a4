"""Exactness: a finished run compared with another one of its plan, sample by sample and byte by byte."""

from collections import Counter
from dataclasses import dataclass

from engine.audit.files import verify_run
from engine.run.attempts import FOLDER as ATTEMPTS
from engine.run.directory import QUARANTINE, REJECTED, SHARDS, WRITTEN, RunDirectory
from engine.run.samples import read_samples
from engine.shards.marker import FileRecord


@dataclass(frozen=True, kw_only=True)
class Exactness:
    """Differences from the undisturbed run: keys of samples, paths of files.

    `leftover` are files that a finished run must not have: unfinished ones, those without a marker, and attempt
    records.
    """

    num_samples: int
    lost: tuple[str, ...]
    duplicated: tuple[str, ...]
    different: tuple[str, ...]
    leftover: tuple[str, ...]

    @property
    def is_exact(self) -> bool:
        """Return whether nothing differs."""
        return not (self.lost or self.duplicated or self.different or self.leftover)


def compare_runs(undisturbed: RunDirectory, run: RunDirectory) -> Exactness:
    """Read every file of two runs of one plan, and return how the second differs from the first.

    Files are hashed again; the hashes in markers are not trusted. Raises ShardError where one cannot be read at all.
    """
    wanted, found = _keys(undisturbed), _keys(run)
    return Exactness(
        num_samples=wanted.total(),
        lost=tuple(sorted((wanted - found).keys())),
        duplicated=tuple(sorted((found - wanted).keys())),
        different=tuple(_different(undisturbed, run)),
        leftover=tuple(_leftover(run)),
    )


def _keys(rundir: RunDirectory) -> Counter[str]:
    """Count the samples of a run by key: accepted, rejected and quarantined ones."""
    keys: Counter[str] = Counter()
    for index in rundir.done():
        keys.update(sample.key for sample in read_samples(rundir, index))
        keys.update(rejection.key for rejection in rundir.read_quarantine(index))
    return keys


def _different(undisturbed: RunDirectory, run: RunDirectory) -> list[str]:
    wanted, files = _files(undisturbed), _files(run)
    changed = {difference.path for rundir in (undisturbed, run) for difference in verify_run(rundir)}
    return sorted(changed | {path for path in wanted.keys() | files.keys() if files.get(path) != wanted.get(path)})


def _leftover(run: RunDirectory) -> list[str]:
    unfinished = [f"{folder}/{name}" for folder in ("", *WRITTEN) for name in run.storage.unfinished(folder)]
    stored = [f"{folder}/{name}" for folder in (SHARDS, REJECTED, QUARANTINE) for name in run.storage.list(folder)]
    notes = [f"{ATTEMPTS}/{name}" for name in run.storage.list(ATTEMPTS)]
    return [*unfinished, *sorted(set(stored) - _files(run).keys()), *notes]


def _files(rundir: RunDirectory) -> dict[str, FileRecord]:
    return {path: record for marker in rundir.markers().values() for path, record in marker.files.items()}
