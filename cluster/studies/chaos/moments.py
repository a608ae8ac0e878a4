"""When a fault strikes: at any time, or in the few milliseconds in which a shard is written."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.run.directory import DONE, SHARDS
from engine.storage.storage import Storage

# `write`: a file of a shard is begun; `rename`: its tar has its name, and it has no marker; `marker`: that is begun;
# `done`: it is there.
Kind = Literal["any", "write", "rename", "marker", "done"]
KINDS: tuple[Kind, ...] = ("write", "rename", "marker", "done")
# A file of a shard is there for some milliseconds before it is synced to disk and renamed.
LOOK_S = 0.0005
SLOW_LOOK_S = 0.05
MAX_SHARDS = 3


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Say when to strike: `after_s` seconds from now, or while the shard is written that comes after `num_shards`."""

    kind: Kind
    after_s: float = 0.0
    num_shards: int = 0

    @classmethod
    def draw(cls, chance: random.Random, longest_s: float) -> "Moment":
        """Draw one: half of them at any time within `longest_s`, half of them in the writing of a shard."""
        if chance.random() < 0.5:
            return cls(kind="any", after_s=chance.uniform(0, longest_s))
        return cls(kind=chance.choice(KINDS), num_shards=chance.randrange(MAX_SHARDS))


def wait_for(moment: Moment, out: Path, is_over: Callable[[], bool]) -> bool:
    """Wait for the moment, and return whether it has come before all was over."""
    if moment.kind == "any":
        end = time.monotonic() + moment.after_s
        while not is_over() and time.monotonic() < end:
            time.sleep(min(SLOW_LOOK_S, max(end - time.monotonic(), 0)))
        return not is_over()
    before = State.of(out)
    for number in range(1 << 62):
        if State.of(out).shows(moment, before):
            return True
        # Whether it is over costs a system call more, and is no matter of milliseconds.
        if number % 100 == 0 and is_over():
            return False
        time.sleep(LOOK_S)
    return False


@dataclass(frozen=True, kw_only=True)
class State:
    """Hold what lies about in a run directory: files in work of shards and of markers, tars, markers."""

    writing: frozenset[str]
    marking: frozenset[str]
    tars: frozenset[str]
    markers: frozenset[str]

    @classmethod
    def of(cls, out: Path) -> "State":
        """Look at a run directory, which may not be there yet."""
        storage = Storage(str(out))
        return cls(
            writing=frozenset(storage.unfinished(SHARDS)),
            marking=frozenset(storage.unfinished(DONE)),
            tars=frozenset(name.removesuffix(".tar") for name in storage.list(SHARDS, ".tar")),
            markers=frozenset(name.removesuffix(".json") for name in storage.list(DONE, ".json")),
        )

    @property
    def unmarked(self) -> frozenset[str]:
        """Return the shards whose tar has its name, and that have no marker."""
        return self.tars - self.markers

    def describe(self) -> str:
        """Return what lies about, for the log."""
        num_unfinished = len(self.writing | self.marking)
        found = [
            *([f"{num_unfinished} half-written"] if num_unfinished else []),
            *([f"{len(self.unmarked)} without a marker"] if self.unmarked else []),
        ]
        return f"left {' and '.join(found)}" if found else "nothing lies about"

    def shows(self, moment: Moment, before: "State") -> bool:
        """Return whether this is the state that a moment waits for, which began in the state `before`."""
        new = len(self.markers - before.markers)
        match moment.kind:
            case "write":
                return new >= moment.num_shards and bool(self.writing - before.writing)
            case "rename":
                return new >= moment.num_shards and bool(self.unmarked - before.unmarked)
            case "marker":
                return new >= moment.num_shards and bool(self.marking - before.marking)
            case "done":
                return new > moment.num_shards
            case "any":
                return True
