"""Moments of faults: at any time, or in the few milliseconds in which a shard is written."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.run.directory import DONE, SHARDS
from engine.storage.storage import Storage

# `write`: a temporary file of a shard exists; `rename`: its tar exists and its marker does not; `marker`: a temporary
# file of its marker exists; `done`: its marker exists.
Kind = Literal["any", "write", "rename", "marker", "done"]
KINDS: tuple[Kind, ...] = ("write", "rename", "marker", "done")
# A temporary file exists for some milliseconds before it is synced to disk and renamed.
LOOK_S = 0.0005
SLOW_LOOK_S = 0.05
MAX_SHARDS = 3


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A moment `after_s` seconds from now, or in the writing of the shard that follows `num_shards` others."""

    kind: Kind
    after_s: float = 0.0
    num_shards: int = 0

    @classmethod
    def draw(cls, rng: random.Random, longest_s: float) -> "Moment":
        """Draw a moment: with probability 0.5 uniform within `longest_s`, else in the writing of a shard."""
        if rng.random() < 0.5:
            return cls(kind="any", after_s=rng.uniform(0, longest_s))
        return cls(kind=rng.choice(KINDS), num_shards=rng.randrange(MAX_SHARDS))


def wait_for(moment: Moment, out: Path, is_over: Callable[[], bool]) -> bool:
    """Wait for the moment; return False if the run ended before it."""
    if moment.kind == "any":
        end = time.monotonic() + moment.after_s
        while not is_over() and time.monotonic() < end:
            time.sleep(min(SLOW_LOOK_S, max(end - time.monotonic(), 0)))
        return not is_over()
    before = State.of(out)
    for number in range(1 << 62):
        if State.of(out).shows(moment, before):
            return True
        # Not each time: it costs a system call more.
        if number % 100 == 0 and is_over():
            return False
        time.sleep(LOOK_S)
    return False


@dataclass(frozen=True, kw_only=True)
class State:
    """The files of a run directory by the moments that they show, `rename`: tars without a marker."""

    files: Mapping[Kind, frozenset[str]]

    @classmethod
    def of(cls, out: Path) -> "State":
        """List a run directory, which may not exist yet."""
        storage = Storage(str(out))
        files: dict[Kind, frozenset[str]] = {
            "write": frozenset(storage.unfinished(SHARDS)),
            "marker": frozenset(storage.unfinished(DONE)),
        }
        tars = {name.removesuffix(".tar") for name in storage.list(SHARDS, ".tar")}
        files["done"] = frozenset(name.removesuffix(".json") for name in storage.list(DONE, ".json"))
        files["rename"] = frozenset(tars - files["done"])
        return cls(files=files)

    @property
    def num_torn(self) -> int:
        """Return the number of half-written files."""
        return len(self.files["write"] | self.files["marker"])

    @property
    def num_unmarked(self) -> int:
        """Return the number of tars without a marker."""
        return len(self.files["rename"])

    def shows(self, moment: Moment, before: "State") -> bool:
        """Return whether the moment has come, given the state `before` the wait."""
        new = {kind: names - before.files[kind] for kind, names in self.files.items()}
        if moment.kind == "done":
            return len(new["done"]) > moment.num_shards
        return len(new["done"]) >= moment.num_shards and bool(new[moment.kind])
