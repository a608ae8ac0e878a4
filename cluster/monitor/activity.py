"""What a running dataflow is doing, and how long something takes, for people."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StageActivity:
    """Say what one actor pool is doing: shards done, worked on and waiting; actors ready and starting."""

    name: str
    done: int
    working: int
    waiting: int
    actors: int
    starting: int


@dataclass(frozen=True, kw_only=True)
class Activity:
    """Hold what each stage is doing, in order, and how many shards are being read and committed."""

    stages: Sequence[StageActivity] = ()
    reads: int = 0
    writes: int = 0


def duration(seconds: float) -> str:
    """Return seconds for a person: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
