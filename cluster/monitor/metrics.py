"""The metrics of a run, defined here and nowhere else; Ray's metrics agent serves them to Prometheus as `ray_...`.

Where no Ray session is, or its agent exports nothing, recording costs microseconds and goes nowhere. What is measured
in a worker that is killed is lost with its last seconds: the truth of a run are its markers.
"""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, assert_never

if TYPE_CHECKING:
    from ray.util.metrics import Counter, Gauge, Histogram

# Seconds a stage spends on a shard, from plugins that do next to nothing to video-sized models.
BUCKETS_S = tuple(step * 10.0**power for power in range(-1, 4) for step in (1, 2, 5))


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Define one metric. `tags` take few values each: never a key of a sample or the number of a shard.

    A counter grows from 0 with each process that counts, so look at it with rate(), or by sum over a session.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    tags: tuple[str, ...]

    @property
    def exported(self) -> str:
        """Return the name that Prometheus knows it by."""
        return f"ray_{self.name}"

    def record(self, value: float, **tags: str) -> None:
        """Add to a counter, set a gauge, or observe in a histogram."""
        instrument = _instrument(self)
        match self.kind:
            case "counter":
                # Ray refuses an increment of nothing.
                if value > 0:
                    instrument.inc(value, tags)
            case "gauge":
                instrument.set(value, tags)
            case "histogram":
                instrument.observe(value, tags)
            case _:
                assert_never(self.kind)


SHARDS = Metric(
    name="counterforge_shards",
    kind="gauge",
    help="Shards of the run by state: done, or pending",
    tags=("run", "state"),
)
SECONDS_LEFT = Metric(
    name="counterforge_seconds_left",
    kind="gauge",
    help="Seconds until all shards are done at the rate of this session, once one was timed",
    tags=("run",),
)
SHARDS_COMMITTED = Metric(
    name="counterforge_shards_committed_total",
    kind="counter",
    help="Shards that got their marker in this session",
    tags=("run",),
)
IMAGES = Metric(
    name="counterforge_images_total",
    kind="counter",
    help="Images of committed shards by role (source, placebo, counterfactual) and verdict (accepted, rejected by its "
    "first reason, quarantined by stage and reason)",
    tags=("run", "role", "verdict", "stage", "reason"),
)
WRITTEN = Metric(
    name="counterforge_written_bytes_total",
    kind="counter",
    help="Bytes of the files of committed shards, by folder",
    tags=("run", "folder"),
)
STAGE_SECONDS = Metric(
    name="counterforge_stage_seconds_total",
    kind="counter",
    help="Seconds that committed shards spent in each stage, as their markers say",
    tags=("run", "stage"),
)
# Ray's agent builds a histogram's sum from the middles of the buckets, so exact seconds are the counter above.
SHARD_SECONDS = Metric(
    name="counterforge_shard_seconds",
    kind="histogram",
    help="Seconds of one committed shard in each stage; the sum is approximate",
    tags=("run", "stage"),
)
STAGE_SHARDS = Metric(
    name="counterforge_stage_shards",
    kind="gauge",
    help="Shards by what the actors of a group do with them: working, or waiting (the queue before the group)",
    tags=("run", "group", "state"),
)
STAGE_ACTORS = Metric(
    name="counterforge_stage_actors",
    kind="gauge",
    help="Actors of a group: ready, or starting",
    tags=("run", "group", "state"),
)
TASKS = Metric(
    name="counterforge_tasks",
    kind="gauge",
    help="Tasks at work on shards without an actor: read, or commit",
    tags=("run", "task"),
)
BUSY_SECONDS = Metric(
    name="counterforge_busy_seconds_total",
    kind="counter",
    help="Seconds that an actor (Ray's label WorkerId) spent at work in each stage, also on shards that it did not end",
    tags=("run", "group", "stage"),
)
BEGUN_AGAIN = Metric(
    name="counterforge_shards_begun_again_total",
    kind="counter",
    help="Shards that a group began again because a worker before ended, or a stage raised what goes away by itself",
    tags=("run", "group"),
)

METRICS = (
    SHARDS,
    SECONDS_LEFT,
    SHARDS_COMMITTED,
    IMAGES,
    WRITTEN,
    STAGE_SECONDS,
    SHARD_SECONDS,
    STAGE_SHARDS,
    STAGE_ACTORS,
    TASKS,
    BUSY_SECONDS,
    BEGUN_AGAIN,
)


@cache
def _instrument(metric: Metric) -> "Counter | Gauge | Histogram":
    # Not at the top: `status` shows the same numbers without Ray.
    from ray.util.metrics import Counter, Gauge, Histogram

    match metric.kind:
        case "counter":
            return Counter(metric.name, metric.help, metric.tags)
        case "gauge":
            return Gauge(metric.name, metric.help, metric.tags)
        case "histogram":
            return Histogram(metric.name, metric.help, list(BUCKETS_S), metric.tags)
        case _:
            assert_never(metric.kind)
