"""Who measures what of a run: the driver its markers and its dataflow, each actor its own time at work."""

from collections import Counter
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from cluster.monitor.metrics import (
    BEGUN_AGAIN,
    BUSY_SECONDS,
    IMAGES,
    SECONDS_LEFT,
    SHARD_SECONDS,
    SHARDS,
    SHARDS_COMMITTED,
    STAGE_ACTORS,
    STAGE_SECONDS,
    STAGE_SHARDS,
    TASKS,
    WRITTEN,
)
from engine.run.commit import is_candidate

if TYPE_CHECKING:
    from cluster.monitor.activity import Activity
    from engine.run.directory import RunDirectory
    from engine.sample import Rejection, Sample, Stage
    from engine.shards.marker import Counts, Marker

# A plugin may put numbers into its reasons: beyond so many different ones they are counted together.
MAX_REASONS = 100
OTHER = "other"
# An actor reports its time at work while it is at a shard, which may take an hour.
REPORT_S = 1.0

# Role, verdict, stage and reason of an image.
Fate = tuple[str, str, str, str]


class RunMeter:
    """Record what the driver sees: each marker once, when it appears, and how the run stands.

    Markers, not the tasks that commit: those are many processes, each with a series of its own that begins unseen.
    """

    def __init__(self, rundir: "RunDirectory") -> None:
        self._rundir = rundir
        self._run = rundir.info.name
        self._reasons: set[tuple[str, str]] = set()

    def committed(self, marker: "Marker") -> None:
        """Count a shard that was not there when this session began."""
        SHARDS_COMMITTED.record(1, run=self._run)
        quarantined = self._rundir.read_quarantine(marker.shard) if marker.counts.quarantined else []
        for (role, verdict, stage, reason), count in fates(marker.counts, quarantined).items():
            stage, reason = self.bounded(stage, reason)
            IMAGES.record(count, run=self._run, role=role, verdict=verdict, stage=stage, reason=reason)
        for path, file in marker.files.items():
            WRITTEN.record(file.bytes, run=self._run, folder=path.partition("/")[0])
        for stage, seconds in marker.seconds.items():
            STAGE_SECONDS.record(seconds, run=self._run, stage=stage)
            SHARD_SECONDS.record(seconds, run=self._run, stage=stage)

    def stands(self, done: int, pending: int, seconds_left: float | None, activity: "Activity") -> None:
        """Set how the run stands, with the numbers that the progress display shows."""
        SHARDS.record(done, run=self._run, state="done")
        SHARDS.record(pending, run=self._run, state="pending")
        if seconds_left is not None:
            SECONDS_LEFT.record(seconds_left, run=self._run)
        for stage in activity.stages:
            STAGE_SHARDS.record(stage.working, run=self._run, group=stage.name, state="working")
            STAGE_SHARDS.record(stage.waiting, run=self._run, group=stage.name, state="waiting")
            STAGE_ACTORS.record(stage.actors, run=self._run, group=stage.name, state="ready")
            STAGE_ACTORS.record(stage.starting, run=self._run, group=stage.name, state="starting")
        TASKS.record(activity.reads, run=self._run, task="read")
        TASKS.record(activity.writes, run=self._run, task="commit")

    def bounded(self, stage: str, reason: str) -> tuple[str, str]:
        """Return stage and reason, the latter OTHER where there were too many different ones before."""
        if (stage, reason) not in self._reasons and len(self._reasons) >= MAX_REASONS:
            return stage, OTHER
        self._reasons.add((stage, reason))
        return stage, reason


class StageMeter:
    """Record what one actor does: its time at work by stage, and what it begins again."""

    def __init__(self, run: str, group: str) -> None:
        self._run, self._group = run, group

    def begun(self, times: int) -> None:
        """Note that a shard is begun, for the first or another time."""
        if times > 1:
            BEGUN_AGAIN.record(1, run=self._run, group=self._group)

    def timed(self, name: str, stage: "Stage") -> "Stage":
        """Return the stage with its time at work recorded while it goes on."""
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
        BUSY_SECONDS.record(seconds, run=self._run, group=self._group, stage=name)


def fates(counts: "Counts", quarantined: "Sequence[Rejection]") -> Counter[Fate]:
    """Return how many images of a shard went where: what its marker counts, and its quarantine by stage."""
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
