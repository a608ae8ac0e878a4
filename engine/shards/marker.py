"""The marker of a shard: the last file written, and the proof that the shard is done."""

import importlib.metadata
import json
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from engine.errors import ShardError

PACKAGES = (
    "counterforge",
    "accelerate",
    "diffusers",
    "numpy",
    "pillow",
    "pyarrow",
    "ray",
    "torch",
    "transformers",
    "xformers",
)
# Stands among the versions of a marker: the kinds of machines on which its stages ran.
MACHINE, JOIN = "machine", " + "


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """Name the bytes of one file of a shard; `samples` counts its samples, rows or lines."""

    blake3: str
    bytes: int
    samples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Count the samples of a shard.

    candidates == accepted + sum of rejected + quarantined_candidates. `rejected` counts counterfactuals by the first
    check they failed; `quarantined` counts all that could not be processed, sources and placebos too, by reason.
    """

    sources: int = 0
    placebos: int = 0
    rejected_placebos: int = 0
    candidates: int = 0
    accepted: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    quarantined: Mapping[str, int] = field(default_factory=dict)
    quarantined_candidates: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Marker:
    """Say what is in a finished shard. Its time by stage, in seconds, and calls by stage, which a sample that is
    looked for in parts adds to, are the only parts that a second run may change.

    `versions` names what its bytes depend on besides the plan: the packages, and under "machine" the kinds of machines
    that it was made on.
    `allocation` is the SHA-256 of what said where its edits are spent; None in the first round, which the plan rules.
    `early` is that of what said which edits are dropped by their previews; None where none is.
    """

    shard: int
    plan: str
    files: Mapping[str, FileRecord]
    counts: Counts
    keys: tuple[str, str] | None
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    calls: Mapping[str, int] = field(default_factory=dict)
    allocation: str | None = None
    early: str | None = None

    def to_json(self) -> bytes:
        """Return the marker as indented JSON with sorted names."""
        record = {name: value for name, value in asdict(self).items() if value is not None or name == "keys"}
        return (json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, name: str) -> "Marker":
        """Read a marker; ShardError, naming `name`, where it is not one."""
        try:
            record = json.loads(data)
            return cls(
                shard=record["shard"],
                plan=sys.intern(record["plan"]),
                files={path: FileRecord(**file) for path, file in record["files"].items()},
                counts=Counts(**record["counts"]),
                keys=tuple(record["keys"]) if record["keys"] else None,
                seconds=record["seconds"],
                versions=_shared(tuple(record["versions"].items())),
                calls=record.get("calls", {}),
                allocation=record.get("allocation"),
                early=record.get("early"),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ShardError(
                f"marker {name} cannot be read ({error}): delete it, then `counterforge generate` makes the shard again"
            ) from error


class Tally:
    """Add up markers one by one, and keep none of them."""

    def __init__(self) -> None:
        self.num_markers = 0
        self.counts = Counts()
        self._seconds: Counter[str] = Counter()

    def add(self, marker: Marker) -> None:
        """Add one."""
        self.num_markers += 1
        self.counts = _sum([self.counts, marker.counts])
        self._seconds.update(marker.seconds)

    def mean_seconds(self) -> dict[str, float]:
        """Return the mean of one shard by stage."""
        return {stage: seconds / self.num_markers for stage, seconds in self._seconds.items()}


def add_counts(markers: Mapping[int, Marker]) -> Counts:
    """Return the counts of all the markers together."""
    return _sum([marker.counts for marker in markers.values()])


@cache
def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Return the version of Python and of each package that is installed; by default those that can change shards."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def made_on(versions: Mapping[str, str], machines: Iterable[str]) -> dict[str, str]:
    """Return the versions of a shard with kinds of machines added to those that they name."""
    kinds = sorted({*machines, *filter(None, versions.get(MACHINE, "").split(JOIN))})
    return {**versions, MACHINE: JOIN.join(kinds)} if kinds else dict(versions)


def describe_change(before: Mapping[str, str], after: Mapping[str, str]) -> str | None:
    """Return how the versions and machines of two shards differ, None where they do not.

    What only one of them names is left out: older markers name no machine.
    """
    changed = [name for name in before if after.get(name, before[name]) != before[name]]
    return ", ".join(f"{name} {after[name]}, not {before[name]}" for name in changed) or None


@cache
def revision() -> str:
    """Return the commit of the code, with "-dirty" where it was changed since; "unknown" outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # nosec B603 # our own command
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return result.stdout.strip()


@cache
def _shared(versions: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    """Return one mapping for all markers of the same versions: a run has a hundred thousand, and few versions."""
    return dict(versions)


def _sum(every: Sequence[Counts]) -> Counts:
    totals: dict[str, Any] = {}
    for name in (each.name for each in fields(Counts)):
        values = [getattr(counts, name) for counts in every]
        by_reason = name in ("rejected", "quarantined")
        totals[name] = dict(sorted(sum(map(Counter, values), Counter[str]()).items())) if by_reason else sum(values)
    return Counts(**totals)
