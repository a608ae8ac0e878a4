"""Recording of metrics: the driver records markers and the dataflow, each actor its busy time."""

from collections import Counter
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from cluster.monitor import metrics
from engine.run.commit import is_candidate

if TYPE_CHECKING:
    from cluster.monitor.activity import Activity
    from engine.run.directory import RunDirectory
    from engine.sample import Rejection, Sample, Stage
    from engine.shards.marker import Counts, Marker

# A plugin may put numbers into its reasons: beyond this many different ones all others are counted as OTHER.
MAX_REASONS = 100
OTHER = "other"
# An actor reports its busy time during a shard, which may take an hour.
REPORT_S = 1.0

# Role, verdict, stage and reason of an image.
Fate = tuple[str, str, str, str]


class RunMeter:
    """Record the driver's metrics: each new marker once, and the progress of the run.

    Commits are counted here and not in the commit tasks: those are many processes, each with a counter of its own.
    """

    def __init__(self, rundir: "RunDirectory") -> None:
        self._rundir = rundir
        self._run = rundir.info.name
        self._reasons: set[tuple[str, str]] = set()

    def record_commit(self, marker: "Marker") -> None:
        """Count a shard that was committed in this session."""
        metrics.SHARDS_COMMITTED.record(1, run=self._run)
        quarantined = self._rundir.read_quarantine(marker.shard) if marker.counts.quarantined else []
        for (role, verdict, stage, reason), count in fates(marker.counts, quarantined).items():
            stage, reason = self.bounded(stage, reason)
            metrics.IMAGES.record(count, run=self._run, role=role, verdict=verdict, stage=stage, reason=reason)
        for path, file in marker.files.items():
            metrics.WRITTEN.record(file.bytes, run=self._run, folder=path.partition("/")[0])
        for stage, seconds in marker.seconds.items():
            metrics.STAGE_SECONDS.record(seconds, run=self._run, stage=stage)
            metrics.SHARD_SECONDS.record(seconds, run=self._run, stage=stage)

    def record_progress(self, done: int, pending: int, seconds_left: float | None, activity: "Activity") -> None:
        """Set the gauges to the numbers that the progress display shows."""
        metrics.SHARDS.record(done, run=self._run, state="done")
        metrics.SHARDS.record(pending, run=self._run, state="pending")
        if seconds_left is not None:
            metrics.SECONDS_LEFT.record(seconds_left, run=self._run)
        for stage in activity.stages:
            metrics.STAGE_SHARDS.record(stage.working, run=self._run, group=stage.name, state="working")
            metrics.STAGE_SHARDS.record(stage.waiting, run=self._run, group=stage.name, state="waiting")
            metrics.STAGE_ACTORS.record(stage.actors, run=self._run, group=stage.name, state="ready")
            metrics.STAGE_ACTORS.record(stage.starting, run=self._run, group=stage.name, state="starting")
        metrics.TASKS.record(activity.reads, run=self._run, task="read")
        metrics.TASKS.record(activity.writes, run=self._run, task="commit")

    def bounded(self, stage: str, reason: str) -> tuple[str, str]:
        """Return stage and reason; the reason is OTHER after MAX_REASONS different ones."""
        if (stage, reason) not in self._reasons and len(self._reasons) >= MAX_REASONS:
            return stage, OTHER
        self._reasons.add((stage, reason))
        return stage, reason


class StageMeter:
    """Record the metrics of one actor: its busy time by stage, and shards that it begins again."""

    def __init__(self, run: str, group: str) -> None:
        self._run, self._group = run, group

    def record_begin(self, attempt: int) -> None:
        """Count a shard that is begun, unless this is its first attempt."""
        if attempt > 1:
            metrics.BEGUN_AGAIN.record(1, run=self._run, group=self._group)

    def timed(self, name: str, stage: "Stage") -> "Stage":
        """Return the stage with its busy time recorded while it runs."""
        return lambda batch: self._timed(name, stage, batch)

    def _timed(self, name: str, stage: "Stage", batch: "Sequence[Sample]") -> "Iterator[Sample | Rejection]":
        since = perf_counter()
        try:
            for result in stage(batch):
                if (now := perf_counter()) - since >= REPORT_S:
                    self._busy(name, now - since)
                    since = now
                yield result
        finally:
            self._busy(name, perf_counter() - since)

    def _busy(self, name: str, seconds: float) -> None:
        metrics.BUSY_SECONDS.record(seconds, run=self._run, group=self._group, stage=name)


def fates(counts: "Counts", quarantined: "Sequence[Rejection]") -> Counter[Fate]:
    """Return the numbers of images of a shard by role, verdict, stage and reason."""
    found: Counter[Fate] = Counter()
    found["source", "accepted", "", ""] = counts.sources
    found["placebo", "accepted", "", ""] = counts.placebos
    found["placebo", "rejected", "", ""] = counts.rejected_placebos
    found["counterfactual", "accepted", "", ""] = counts.accepted
    for reason, count in counts.rejected.items():
        found["counterfactual", "rejected", "", reason] = count
    found.update((_role(each), "quarantined", each.stage, each.reason) for each in quarantined)
    return found


def _role(rejection: "Rejection") -> str:
    if rejection.key == rejection.source_key:
        return "source"
    return "counterfactual" if is_candidate(rejection) else "placebo"
