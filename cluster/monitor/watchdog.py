"""The watchdog of a run: why nothing moves, and whether to wait on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.monitor.activity import Activity, StageActivity
from cluster.session.placement import IO_CPUS, Need, Resources
from engine.run.attempts import longest_at_work
from engine.runfile.run import LimitsConfig
from engine.storage.storage import Storage
from engine.wording import duration

# After as long without a finished shard it is said why.
SAY_S = 60.0
# To look costs requests to the storage and to the cluster.
LOOK_S = 15.0
# A share of a core is held by tasks that read and write.
SLACK_CPUS = 0.5


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Say why nothing moves: `work` is slow, an actor is at its `start`, `nodes` are missing, or it is a `stall`."""

    cause: Literal["work", "start", "nodes", "stall"]
    text: str

    def limit_s(self, limits: LimitsConfig) -> float | None:
        """Return after how many seconds without a finished shard the run is to end, None where it is to wait."""
        match self.cause:
            case "work" | "start":
                return None
            case "nodes":
                return limits.nodes_s
            case "stall":
                return limits.stalled_s if limits.on_stall == "stop" else None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Hold why no shard was finished for a while, and whether the run is to end for it."""

    text: str
    ends: bool


class Watchdog:
    """Find out why nothing moves. `activity` says what the stages are doing, `resources` what the cluster has."""

    def __init__(
        self,
        limits: LimitsConfig,
        needs: Sequence[Need],
        storage: Storage,
        activity: Callable[[], Activity],
        resources: Callable[[], Resources],
    ) -> None:
        self._limits, self._needs, self._storage = limits, needs, storage
        self._activity, self._resources = activity, resources
        self._every_s = min(LOOK_S, limits.stalled_s / 3, (limits.nodes_s or LOOK_S) / 3)
        self._finding: Finding | None = None
        # At how many idle seconds it looked last, and found the present cause first.
        self._looked_s = self._began_s = 0.0
        self._cause: str | None = None

    def look(self, idle_s: float) -> Finding | None:
        """Return why no shard was finished for `idle_s` seconds, None where that is no time at all.

        To be asked every second or so: a cause ends the run when it has lasted, whatever came before it.
        """
        if idle_s < self._looked_s:
            self._looked_s, self._cause, self._finding = 0.0, None, None
        if idle_s - self._looked_s >= self._every_s:
            self._looked_s, self._finding = idle_s, self._find(idle_s)
        return self._finding if self._finding and (self._finding.ends or idle_s >= SAY_S) else None

    def diagnose(self) -> Diagnosis:
        """Return what is waited for now."""
        activity = self._activity()
        stages = activity.stages
        if any(stage.working for stage in stages):
            return self._at_work()
        starting = [stage for stage in stages if stage.starting and not stage.actors]
        if starting:
            return self._missing(stages) or Diagnosis(
                cause="start",
                text=f"the actors of {', '.join(stage.name for stage in starting)} are starting: models are loaded, "
                "or downloaded",
            )
        if activity.reads or activity.writes:
            have = self._resources()
            if have.free_cpus < IO_CPUS:
                return _without("the tasks that read and write shards", "CPU cores", have.num_cpus, have.free_cpus)
            what = f"{activity.reads} shards are being read, {activity.writes} written to {self._storage}"
            return Diagnosis(cause="stall", text=f"{what}: does the storage answer?")
        return Diagnosis(cause="stall", text="no stage has a shard at work, and none is being written: Ray hangs")

    def _find(self, idle_s: float) -> Finding:
        diagnosis = self.diagnose()
        if diagnosis.cause != self._cause:
            self._cause, self._began_s = diagnosis.cause, idle_s
        limit_s, lasted_s = diagnosis.limit_s(self._limits), idle_s - self._began_s
        text = f"no shard was finished for {duration(idle_s)}: {diagnosis.text}"
        if limit_s is None:
            return Finding(text=text, ends=False)
        if lasted_s < limit_s:
            return Finding(text=f"{text}. The run ends if that lasts {duration(limit_s - lasted_s)} longer", ends=False)
        name = "limits.nodes_s" if diagnosis.cause == "nodes" else "limits.stalled_s"
        return Finding(
            text=f"{text}. That is longer than {name} allows. Shards that are done are kept; the same command goes on",
            ends=True,
        )

    def _at_work(self) -> Diagnosis:
        longest = longest_at_work(self._storage)
        text = "the stages are at work" if longest is None else longest.describe()
        return Diagnosis(cause="work", text=f"{text} (limits.sample_s ends it where that takes too long)")

    def _missing(self, stages: Sequence[StageActivity]) -> Diagnosis | None:
        """Say which resources are missing: what the actors that are to be there need, less what is in use."""
        have = self._resources()
        actors = {f"stages.{stage.name.split('+')[0]}": stage.actors + stage.starting for stage in stages}
        gpus = sum(need.num_gpus * actors.get(need.path, 0) for need in self._needs)
        cpus = sum(need.num_cpus * actors.get(need.path, 0) for need in self._needs) - SLACK_CPUS
        for name, wanted, total, free in (
            ("GPUs", gpus, have.num_gpus, have.free_gpus),
            ("CPU cores", cpus, have.num_cpus, have.free_cpus),
        ):
            if wanted > total - free:
                return _without("actors", name, total, free)
        return None


def _without(who: str, what: str, total: float, free: float) -> Diagnosis:
    return Diagnosis(cause="nodes", text=f"{who} wait for {what}: the cluster has {total:g}, {free:g} of them free")
