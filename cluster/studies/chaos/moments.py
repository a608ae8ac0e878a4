"""Moments of faults: at any time, or in the few milliseconds in which a shard is written."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

from engine.run.directory import DONE, SHARDS
from engine.storage.storage import Storage

# `write`: a temporary file of a shard exists; `rename`: its tar exists and its marker does not; `marker`: a temporary
# file of its marker exists; `done`: its marker exists.
Kind = Literal["any", "write", "rename", "marker", "done"]
KINDS: tuple[Kind, ...] = ("write", "rename", "marker", "done")
Files = Mapping[Kind, set[str]]
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

    def has_come(self, before: Files, now: Files) -> bool:
        """Return whether the moment has come, given the files `before` the wait and those of `now`."""
        new = {kind: names - before[kind] for kind, names in now.items()}
        if self.kind == "done":
            return len(new["done"]) > self.num_shards
        return len(new["done"]) >= self.num_shards and bool(new[self.kind])


def wait_for(moment: Moment, out: Path, is_over: Callable[[], bool]) -> bool:
    """Wait for the moment; return False if the run ended before it."""
    if moment.kind == "any":
        end = time.monotonic() + moment.after_s
        while not is_over() and time.monotonic() < end:
            time.sleep(min(SLOW_LOOK_S, max(end - time.monotonic(), 0)))
        return not is_over()
    before = files_of(out)
    for number in count():
        if moment.has_come(before, files_of(out)):
            return True
        # Not each time: it costs a system call more.
        if number % 100 == 0 and is_over():
            break
        time.sleep(LOOK_S)
    return False


def files_of(out: Path) -> Files:
    """Return the files of a run directory, which may not exist yet; `rename` has the tars without a marker."""
    storage = Storage(str(out))
    writes, markers = set(storage.unfinished(SHARDS)), set(storage.unfinished(DONE))
    tars = {name.removesuffix(".tar") for name in storage.list(SHARDS, ".tar")}
    done = {name.removesuffix(".json") for name in storage.list(DONE, ".json")}
    return {"write": writes, "marker": markers, "rename": tars - done, "done": done}
