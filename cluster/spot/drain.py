"""Ray's side: which node of which cluster this machine is, and telling the cluster that it goes."""

from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from engine.errors import PlacementError, RunError

SCHEDULER = "raylet"
ID_FLAG, ADDRESS_FLAG = "--node_id=", "--gcs-address="
# A cluster that does not answer must not hold up a machine that goes: it is asked again.
ANSWER_S = 5.0


@dataclass(frozen=True, kw_only=True)
class RayNode:
    """Name a Ray node that runs on this machine, and where its cluster is."""

    node_id: str
    address: str


def find_own_node(node_id: str | None = None) -> RayNode:
    """Return the Ray node of this machine; with an id, the one of several that has it.

    Raises PlacementError where there is none, or where there are several and none is named.
    """
    # A set: a process that is just being started by another looks like it.
    here = {node for process in psutil.process_iter() if (node := _node_of(process))}
    found = [node for node in here if node_id in (None, node.node_id)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(f"{node.node_id} of {node.address}" for node in here)
    if not here:
        raise PlacementError(
            "no Ray node runs on this machine, so there is none to drain: `ray start --address=HEAD:6379` starts one"
        )
    if not found:
        raise PlacementError(f"--node-id {node_id}: no such Ray node runs on this machine, which has {names}")
    raise PlacementError(f"{len(here)} Ray nodes run on this machine, say with --node-id which one to drain: {names}")


def drain_node(node: RayNode, end_s: float, why: str) -> None:
    """Tell the cluster that a node is there until `end_s` (epoch) and no longer: it gets no new work from now on.

    Raises RunError where the cluster does not answer or refuses, or where this Ray is drained in another way.
    """
    import ray.exceptions

    try:
        # As `ray drain-node` does (2.60), a command that Ray hides.
        from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason
    except ImportError as error:
        raise RunError(
            f"Ray {ray.__version__} drains nodes in a way that is not known here ({error}): install a version that "
            "Counterforge asks for, or drain the node with Ray's own tools"
        ) from error
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    try:
        client = GcsClient(address=node.address)
        is_accepted, refusal = client.drain_node(node.node_id, reason, why, round(1000 * end_s), timeout=ANSWER_S)
    except ray.exceptions.RayError as error:
        raise RunError(f"the Ray cluster at {node.address} does not answer: {str(error).splitlines()[0]}") from error
    if not is_accepted:
        raise RunError(f"Ray would not drain node {node.node_id}: {refusal}")


def _node_of(process: psutil.Process) -> RayNode | None:
    try:
        words = process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
        return None
    if not words or words[0].rpartition("/")[2] != SCHEDULER:
        return None
    node_id, address = (_value(words, flag) for flag in (ID_FLAG, ADDRESS_FLAG))
    return RayNode(node_id=node_id, address=address) if node_id and address else None


def _value(words: Sequence[str], flag: str) -> str | None:
    return next((word.removeprefix(flag) for word in words if word.startswith(flag)), None)
