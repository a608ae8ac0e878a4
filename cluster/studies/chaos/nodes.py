"""A small Ray cluster on this machine, whose nodes may be killed, drained and added: processes, not machines."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from typing import TYPE_CHECKING, Any

import psutil

from cluster.session.placement import RESERVED_CPUS, generate_needs
from cluster.session.session import prepare_environment
from cluster.spot.drain import RayNode, drain_node
from cluster.studies.chaos.driver import TASKS, kill_all, pool_of
from engine.runfile.run import RunFile

if TYPE_CHECKING:
    from ray._private.node import Node

NUM_NODES = 2
# Nobody looks at what the processes write, and no machine is to be asked for: two processes less for each node.
BARE = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}


class Nodes:
    """Hold a head, which the drivers join and which does no work, and the nodes that do.

    Two of them together are as large as the smallest pools of the run need.
    """

    def __init__(self, run: RunFile) -> None:
        from ray.cluster_utils import Cluster

        needs = generate_needs(run)
        cpus = sum(need.num_cpus * need.replicas[0] for need in needs) + RESERVED_CPUS
        gpus = sum(need.num_gpus * need.replicas[0] for need in needs)
        largest_cpu, largest_gpu = (max(getattr(need, name) for need in needs) for name in ("num_cpus", "num_gpus"))
        self._size = {
            "num_cpus": ceil(max(cpus / NUM_NODES, largest_cpu)),
            "num_gpus": ceil(max(gpus / NUM_NODES, largest_gpu)),
        }
        # Ray puts its own there with each node, which leaves with exit code 1 and no word.
        self._handler = signal.getsignal(signal.SIGTERM)
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **BARE})
        signal.signal(signal.SIGTERM, self._handler)
        self._nodes: list[Node] = []

    @property
    def address(self) -> str:
        """Return where drivers join."""
        return str(self._cluster.address)

    @property
    def alive(self) -> list["Node"]:
        """Return the nodes that work, the oldest first."""
        return list(self._nodes)

    def add(self) -> "Node":
        """Start a node and wait until the cluster knows it."""
        node = self._cluster.add_node(**self._size, **BARE)
        signal.signal(signal.SIGTERM, self._handler)
        self._nodes.append(node)
        return node

    def kill(self, node: "Node") -> None:
        """Send SIGKILL to a node and all that works on it."""
        found = processes_of(node)
        kill_all([*found, *(process for child in found for process in child.children(recursive=True))])
        self._nodes.remove(node)
        # What is left of it is for Ray to forget: sockets, its place in the list of the processes that it started.
        self._cluster.remove_node(node, allow_graceful=False)

    def drain(self, node: "Node", deadline_s: float) -> None:
        """Tell the cluster that a node goes in `deadline_s` seconds, as a spot notice does; it is left to be killed."""
        own = RayNode(node_id=node.node_id, address=self.address)
        drain_node(own, time.time() + deadline_s, "chaos")

    def stop(self) -> None:
        """End every process of the cluster."""
        for node in self.alive:
            self.kill(node)
        self._cluster.shutdown()


def processes_of(node: "Node") -> list[psutil.Process]:
    """Return the processes of a node that Ray started for it, its scheduler among them."""
    infos: Any = [info for infos in node.all_processes.values() for info in infos]
    return [psutil.Process(info.process.pid) for info in infos if psutil.pid_exists(info.process.pid)]


def actors_on(node: "Node") -> int:
    """Return how many actors of stages a node has."""
    children = [child for process in processes_of(node) for child in process.children(recursive=True)]
    return sum(pool not in (None, TASKS) for pool in map(pool_of, children))


@contextmanager
def own_ray() -> Iterator[None]:
    """Keep what Ray writes in a folder of its own, which is deleted: another Ray of this machine stays untouched."""
    prepare_environment(local=True)
    # Short: a socket's path may have 107 characters.
    folder = tempfile.mkdtemp(prefix="cf-", dir="/tmp")  # nosec B108 # made with a name that none can guess
    before = os.environ.get("RAY_TMPDIR")
    os.environ["RAY_TMPDIR"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["RAY_TMPDIR"]
        else:
            os.environ["RAY_TMPDIR"] = before
        shutil.rmtree(folder, ignore_errors=True)
