"""One shard between two stages."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.sample import Rejection, Sample


@dataclass(frozen=True, kw_only=True)
class ShardRow:
    """Hold one shard between two stages: its planned source keys, samples and rejections, seconds and calls by stage.

    `calls` counts what the models of a stage were asked for, such as `editor.encoded`.
    """

    shard: int
    planned: Sequence[str]
    samples: Sequence[Sample]
    rejections: Sequence[Rejection] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
