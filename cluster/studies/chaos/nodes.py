"""A small Ray cluster on this machine whose nodes, which are processes, can be killed, drained and added."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from tempfile import TemporaryDirectory
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
# No dashboard, log reader or autoscaler is needed: two processes fewer for each node.
BARE = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}


class Nodes:
    """A head without CPUs, which the drivers join, and worker nodes.

    Two worker nodes together have the resources that the smallest pools of the run need.
    """

    def __init__(self, run: RunFile) -> None:
        from ray.cluster_utils import Cluster

        needs = generate_needs(run)
        self._size = {}
        for name, reserved in (("num_cpus", RESERVED_CPUS), ("num_gpus", 0)):
            total = sum(getattr(need, name) * need.replicas[0] for need in needs) + reserved
            self._size[name] = ceil(max(total / NUM_NODES, *(getattr(need, name) for need in needs)))
        # Ray sets its own handler with each node, which exits silently with code 1.
        self._handler = signal.getsignal(signal.SIGTERM)
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **BARE})
        signal.signal(signal.SIGTERM, self._handler)
        # The worker nodes, the oldest first.
        self.alive: list[Node] = []
        self.address = str(self._cluster.address)

    def add(self) -> "Node":
        """Start a node and wait until it is registered."""
        node = self._cluster.add_node(**self._size, **BARE)
        signal.signal(signal.SIGTERM, self._handler)
        self.alive.append(node)
        return node

    def kill(self, node: "Node") -> None:
        """Send SIGKILL to all processes of a node."""
        found = processes_of(node)
        kill_all([*found, *(process for child in found for process in child.children(recursive=True))])
        self.alive.remove(node)
        # Ray then removes its sockets and its entry in the list of processes.
        self._cluster.remove_node(node, allow_graceful=False)

    def drain(self, node: "Node", deadline_s: float) -> None:
        """Drain a node as a spot notice does: it ends in `deadline_s` seconds. The caller kills it."""
        own = RayNode(node_id=node.node_id, address=self.address)
        drain_node(own, time.time() + deadline_s, "chaos")

    def stop(self) -> None:
        """End every process of the cluster."""
        for node in list(self.alive):
            self.kill(node)
        self._cluster.shutdown()


def processes_of(node: "Node") -> list[psutil.Process]:
    """Return the processes that Ray started for a node, its scheduler among them."""
    infos: Any = [info for infos in node.all_processes.values() for info in infos]
    return [psutil.Process(info.process.pid) for info in infos if psutil.pid_exists(info.process.pid)]


def actors_on(node: "Node") -> int:
    """Return the number of stage actors on a node."""
    children = [child for process in processes_of(node) for child in process.children(recursive=True)]
    return sum(pool not in (None, TASKS) for pool in map(pool_of, children))


@contextmanager
def own_ray() -> Iterator[None]:
    """Let Ray write to a temporary folder, so that another Ray of this machine is not touched."""
    prepare_environment(local=True)
    before = os.environ.get("RAY_TMPDIR")
    # Short: a socket's path may have 107 characters.
    with TemporaryDirectory(prefix="cf-", dir="/tmp", ignore_cleanup_errors=True) as folder:  # nosec B108 # unguessable
        os.environ["RAY_TMPDIR"] = folder
        try:
            yield
        finally:
            del os.environ["RAY_TMPDIR"]
            if before is not None:
                os.environ["RAY_TMPDIR"] = before
