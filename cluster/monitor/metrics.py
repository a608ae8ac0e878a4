"""The metrics of a run, all defined here; Ray's metrics agent serves them to Prometheus as `ray_counterforge_...`.

Without a Ray session, or where its agent exports nothing, recording does nothing and costs microseconds. A killed
worker loses the last seconds of its metrics: the exact counts of a run are its markers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal, assert_never

# Seconds a stage spends on a shard, from trivial plugins to video-sized models.
BUCKETS_S = tuple(step * 10.0**power for power in range(-1, 4) for step in (1, 2, 5))

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric. `tags` take few values each: never a sample key or a shard number.

    A counter starts at 0 in each process that counts, so look at it with rate(), or by sum over a session.
    """

    name: str
    kind: Kind
    help: str
    tags: tuple[str, ...]

    @property
    def exported(self) -> str:
        """Return the name in Prometheus."""
        return f"ray_{self.name}"

    def record(self, value: float, **tags: str) -> None:
        """Add to a counter, set a gauge, or observe in a histogram."""
        recorder = _recorder(self)
        # Ray refuses to increment a counter by 0.
        if value > 0 or self.kind != "counter":
            recorder(value, tags)


def _metric(kind: Kind, name: str, help: str, *tags: str) -> Metric:
    return Metric(name=f"counterforge_{name}", kind=kind, help=help, tags=("run", *tags))


SHARDS = _metric("gauge", "shards", "Shards of the run by state: done, or pending", "state")
SECONDS_LEFT = _metric("gauge", "seconds_left", "Seconds until all shards are done, at the rate of this session")
SHARDS_COMMITTED = _metric("counter", "shards_committed_total", "Shards that got their marker in this session")
# Roles: source, placebo, counterfactual. Verdicts: accepted; rejected, by the first reason; quarantined, by stage and
# reason.
IMAGES = _metric("counter", "images_total", "Images of committed shards", "role", "verdict", "stage", "reason")
WRITTEN = _metric("counter", "written_bytes_total", "Bytes of the files of committed shards, by folder", "folder")
STAGE_SECONDS = _metric("counter", "stage_seconds_total", "Seconds of committed shards in each stage", "stage")
# Approximate: Ray's agent builds a histogram's sum from the middles of the buckets. The counter above is exact.
SHARD_SECONDS = _metric("histogram", "shard_seconds", "Seconds of one committed shard in each stage", "stage")
STAGE_SHARDS = _metric("gauge", "stage_shards", "Shards of a group: working, or waiting before it", "group", "state")
STAGE_ACTORS = _metric("gauge", "stage_actors", "Actors of a group: ready, or starting", "group", "state")
TASKS = _metric("gauge", "tasks", "Running tasks outside actors: read, or commit", "task")
# By actor (Ray's label WorkerId), and also of shards that it did not finish.
BUSY_SECONDS = _metric("counter", "busy_seconds_total", "Seconds an actor spent in each stage", "group", "stage")
# The worker before ended, or a stage raised a transient error.
BEGUN_AGAIN = _metric("counter", "shards_begun_again_total", "Shards that a group began again", "group")


@cache
def _recorder(metric: Metric) -> Callable[[float, dict[str, str]], None]:
    # Not at the top: `status` imports this module and works without Ray.
    from ray.util.metrics import Counter, Gauge, Histogram

    record: Callable[[float, dict[str, str]], None]
    match metric.kind:
        case "counter":
            record = Counter(metric.name, metric.help, metric.tags).inc
        case "gauge":
            record = Gauge(metric.name, metric.help, metric.tags).set
        case "histogram":
            record = Histogram(metric.name, metric.help, list(BUCKETS_S), metric.tags).observe
        case _:
            assert_never(metric.kind)
    return record
