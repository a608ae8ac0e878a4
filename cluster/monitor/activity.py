"""The state of a running dataflow: how many shards each stage is working on."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StageActivity:
    """One actor pool: shards done, in progress and waiting; actors ready and starting."""

    name: str
    done: int
    working: int
    waiting: int
    actors: int
    starting: int


@dataclass(frozen=True, kw_only=True)
class Activity:
    """The actor pools in the order of the stages, and the numbers of shards being read and committed."""

    stages: Sequence[StageActivity] = ()
    reads: int = 0
    writes: int = 0
