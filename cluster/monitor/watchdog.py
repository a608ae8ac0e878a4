"""The watchdog of a run: why no shard has been finished for a while, and whether the run should end for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.monitor.activity import Activity, StageActivity
from cluster.session.placement import IO_CPUS, Need, Resources
from engine.run.attempts import longest_at_work
from engine.runfile.run import LimitsConfig
from engine.storage.storage import Storage
from engine.wording import duration

# Time without a finished shard after which the reason is shown.
SAY_S = 60.0
# Between two diagnoses, which send requests to the storage and to the cluster.
LOOK_S = 15.0
# Cores that tasks which read and write may hold.
SLACK_CPUS = 0.5


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Why no shard is finished: `work` is slow, actors `start`, `nodes` are missing, or a `stall`."""

    cause: Literal["work", "start", "nodes", "stall"]
    text: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The reason why no shard was finished for a while, and whether the run should end for it."""

    text: str
    ends: bool


class Watchdog:
    """Diagnose a run without progress. `activity` returns the state of the dataflow, `resources` of the cluster."""

    def __init__(
        self,
        limits: LimitsConfig,
        needs: Sequence[Need],
        storage: Storage,
        activity: Callable[[], Activity],
        resources: Callable[[], Resources],
    ) -> None:
        self._needs, self._storage = needs, storage
        # The time that each cause may last before the run ends for it.
        stalled_s = limits.stalled_s if limits.on_stall == "stop" else None
        self._limits_s = {"work": None, "start": None, "nodes": limits.nodes_s, "stall": stalled_s}
        self._activity, self._resources = activity, resources
        self._every_s = min(LOOK_S, limits.stalled_s / 3, (limits.nodes_s or LOOK_S) / 3)
        self._finding: Finding | None = None
        # Idle seconds at the last diagnosis, and when the present cause was found first.
        self._looked_s = self._began_s = 0.0
        self._cause: str | None = None

    def look(self, idle_s: float) -> Finding | None:
        """Return why no shard was finished for `idle_s` seconds, None if that is not long.

        Call it every second or so: a cause ends the run once it has lasted for its limit, whatever came before it.
        """
        if idle_s < self._looked_s:
            self._looked_s, self._cause, self._finding = 0.0, None, None
        if idle_s - self._looked_s >= self._every_s:
            self._looked_s, self._finding = idle_s, self._find(idle_s)
        return self._finding if self._finding and (self._finding.ends or idle_s >= SAY_S) else None

    def diagnose(self) -> Diagnosis:
        """Return what the run waits for now."""
        activity = self._activity()
        stages = activity.stages
        if any(stage.working for stage in stages):
            longest = longest_at_work(self._storage)
            text = "the stages are at work" if longest is None else longest.describe()
            return Diagnosis(cause="work", text=f"{text} (limits.sample_s ends a sample that takes too long)")
        if starting := [stage.name for stage in stages if stage.starting and not stage.actors]:
            text = f"the actors of {', '.join(starting)} are starting: models are loaded or downloaded"
            return self._missing(stages) or Diagnosis(cause="start", text=text)
        if activity.reads or activity.writes:
            have = self._resources()
            if have.free_cpus < IO_CPUS:
                return _without("the tasks that read and write shards", "CPU cores", have.num_cpus, have.free_cpus)
            what = f"{activity.reads} shards are being read, {activity.writes} written to {self._storage}"
            return Diagnosis(cause="stall", text=f"{what}: does the storage answer?")
        return Diagnosis(cause="stall", text="stalled: no stage is processing a shard and none is being written")

    def _find(self, idle_s: float) -> Finding:
        diagnosis = self.diagnose()
        if diagnosis.cause != self._cause:
            self._cause, self._began_s = diagnosis.cause, idle_s
        limit_s, lasted_s = self._limits_s[diagnosis.cause], idle_s - self._began_s
        text = f"no shard was finished for {duration(idle_s)}: {diagnosis.text}"
        if limit_s is None:
            return Finding(text=text, ends=False)
        if lasted_s < limit_s:
            return Finding(text=f"{text}. The run ends if that lasts {duration(limit_s - lasted_s)} longer", ends=False)
        name = "limits.nodes_s" if diagnosis.cause == "nodes" else "limits.stalled_s"
        kept = "Finished shards are kept; the same command continues"
        return Finding(text=f"{text}. That is longer than {name} allows. {kept}", ends=True)

    def _missing(self, stages: Sequence[StageActivity]) -> Diagnosis | None:
        """Return which resources the actors need beyond those of the cluster that are in use already."""
        have = self._resources()
        actors = {f"stages.{stage.name.split('+')[0]}": stage.actors + stage.starting for stage in stages}
        gpus = sum(need.num_gpus * actors.get(need.path, 0) for need in self._needs)
        cpus = sum(need.num_cpus * actors.get(need.path, 0) for need in self._needs) - SLACK_CPUS
        if gpus > have.num_gpus - have.free_gpus:
            return _without("actors", "GPUs", have.num_gpus, have.free_gpus)
        if cpus > have.num_cpus - have.free_cpus:
            return _without("actors", "CPU cores", have.num_cpus, have.free_cpus)
        return None


def _without(who: str, what: str, total: float, free: float) -> Diagnosis:
    return Diagnosis(cause="nodes", text=f"{who} wait for {what}: the cluster has {total:g}, {free:g} of them free")
