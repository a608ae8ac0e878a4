"""Placement: compare the resources that a run needs with those of the machines, before anything starts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from engine.errors import PlacementError
from engine.runfile.fields import Placement
from engine.runfile.probe import ProbeConfig
from engine.runfile.reinforce import ReinforceConfig
from engine.runfile.run import RunFile

# CPUs of a read or commit task, which mostly waits for storage. Actor pools leave RESERVED_CPUS for these tasks.
IO_CPUS = 0.5
RESERVED_CPUS = 1.0


@dataclass(frozen=True, kw_only=True)
class Need:
    """The resources of one actor pool; `path` is the field of the run file that has its placement."""

    path: str
    num_cpus: float
    num_gpus: float
    replicas: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Node:
    """The resources of one machine."""

    num_cpus: float
    num_gpus: float


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """The machine of a local session, or the nodes of a joined cluster."""

    nodes: tuple[Node, ...]
    local: bool

    @property
    def num_cpus(self) -> float:
        """Return the cores of all nodes."""
        return sum(node.num_cpus for node in self.nodes)

    @property
    def num_gpus(self) -> float:
        """Return the GPUs of all nodes."""
        return sum(node.num_gpus for node in self.nodes)


@dataclass(frozen=True, kw_only=True)
class _Lack:
    """A pool that asks for more GPUs than there are: `have`, of which stages before it hold some."""

    need: Need
    asked: float
    have: float
    held: float


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The resources of a cluster: all, and those free at the moment."""

    num_cpus: float
    num_gpus: float
    free_cpus: float
    free_gpus: float


def group_placement(run: RunFile, group: Sequence[str]) -> Placement:
    """Return the placement of a group of stages that share an actor: that of the first."""
    return run.stages[group[0]].placement


def generate_needs(run: RunFile) -> list[Need]:
    """Return the needs of the stages, whose pools all exist at the same time."""
    return [_need(f"stages.{group[0]}", group_placement(run, group)) for group in run.stage_groups()]


def probe_needs(config: ProbeConfig) -> list[Need]:
    """Return the need of the probe."""
    return [_need("probe", config.placement)]


def reinforce_needs(config: ReinforceConfig) -> list[Need]:
    """Return the need of the fine-tuning, whose workers start together."""
    need = _need("reinforce", config.placement)
    return [replace(need, replicas=(config.num_workers, config.num_workers))]


def check_placement(phases: Sequence[Sequence[Need]], capacity: Capacity) -> None:
    """Raise PlacementError unless the smallest pools of each phase fit; phases run one after another.

    All pools that lack GPUs are in one message.
    """
    lacking = {lack.need.path: lack for needs in phases for lack in _lacking_gpus(needs, capacity)}
    if lacking:
        raise PlacementError(_describe_lacking(list(lacking.values()), capacity))
    for needs in phases:
        for need in needs:
            _check_one_actor(need, capacity)
        _check_cpus(needs, capacity)


def local_cpus(phases: Sequence[Sequence[Need]], cores: int) -> int:
    """Return the logical CPUs of a local session: the cores, or more if the smallest pools need more to start.

    Sharing cores costs time and changes no result, since the threads of an actor do not depend on it.
    """
    smallest = max((sum(need.num_cpus * need.replicas[0] for need in needs) for needs in phases), default=0.0)
    return max(cores, ceil(smallest + RESERVED_CPUS))


def _need(path: str, placement: Placement) -> Need:
    return Need(path=path, num_cpus=placement.num_cpus, num_gpus=placement.num_gpus, replicas=placement.replicas)


def _lacking_gpus(needs: Sequence[Need], capacity: Capacity) -> Iterator[_Lack]:
    held = 0.0
    most = max((node.num_gpus for node in capacity.nodes), default=0)
    for need in needs:
        asked = need.num_gpus * need.replicas[0]
        if need.num_gpus > most:
            yield _Lack(need=need, asked=need.num_gpus, have=most, held=0.0)
        elif asked and held + asked > capacity.num_gpus + 1e-6:
            yield _Lack(need=need, asked=asked, have=capacity.num_gpus, held=held)
        held += asked


def _check_one_actor(need: Need, capacity: Capacity) -> None:
    if any(node.num_cpus >= need.num_cpus and node.num_gpus >= need.num_gpus for node in capacity.nodes):
        return
    most_cpus = max((node.num_cpus for node in capacity.nodes), default=0)
    raise PlacementError(
        f"one actor of {need.path} asks for {need.num_cpus:g} CPU cores"
        f"{f' beside {need.num_gpus:g} GPUs' if need.num_gpus else ''}, the largest machine has {most_cpus:g}: "
        f"lower it, for example --set {need.path}.placement.num_cpus=1"
    )


def _check_cpus(needs: Sequence[Need], capacity: Capacity) -> None:
    cpus = sum(need.num_cpus * need.replicas[0] for need in needs) + RESERVED_CPUS
    if not capacity.local and cpus > capacity.num_cpus:
        largest = max(needs, key=lambda need: need.num_cpus * need.replicas[0])
        raise PlacementError(
            f"{', '.join(need.path for need in needs)} and the reading and writing of shards ask for {cpus:g} "
            f"CPU cores together, the cluster has {capacity.num_cpus:g}: lower {largest.path}.placement.num_cpus "
            "or replicas, or pass --autoscaling if the cluster grows on demand"
        )


def _describe_lacking(lacking: Sequence[_Lack], capacity: Capacity) -> str:
    first, *rest = lacking
    path, have = first.need.path, first.have
    others = f", {first.held:g} of them held by the stages before" if first.held and not rest else ""
    pool = "reinforce.num_workers" if path == "reinforce" else f"{path}.placement.replicas"
    lower = {
        (True, False): f"lower {path}.placement.num_gpus (a fraction shares one GPU) or {pool}",
        (True, True): "lower placement.num_gpus (a fraction shares one GPU) or replicas of each",
        (False, False): f"run on the CPU with --set {path}.placement.num_gpus=0 --set {path}.placement.device=auto",
        (False, True): "run on the CPU with placement: {num_gpus: 0} in each",
    }[have > 0, bool(rest)]
    asked = [f"{lack.need.path} asks for {lack.asked:g} GPU{'' if lack.asked == 1 else 's'}" for lack in lacking]
    place = "this machine" if capacity.local else "the cluster"
    join = "join a cluster with --address" if capacity.local else "pass --autoscaling if the cluster grows on demand"
    return f"{', '.join(asked)}, {place} has {have:g}{others}: {lower}, or {join}"
