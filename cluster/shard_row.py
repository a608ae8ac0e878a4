"""One shard between two stages."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.sample import Rejection, Sample


@dataclass(frozen=True, kw_only=True)
class ShardRow:
    """Hold one shard between two stages: its planned source keys, its samples and rejections, its seconds by stage."""

    shard: int
    planned: Sequence[str]
    samples: Sequence[Sample]
    rejections: Sequence[Rejection] = ()
    seconds: dict[str, float] = field(default_factory=dict)
