"""What a running dataflow is doing."""

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
