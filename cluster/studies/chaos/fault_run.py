"""The state of one run with injected faults: its driver, its nodes, and counters of what each fault left behind."""

import logging
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from cluster.studies.chaos.driver import GONE_S, Driver, outlast, pool_of
from cluster.studies.chaos.moments import Moment, files_of, wait_for
from cluster.studies.chaos.nodes import Nodes, actors_on
from engine.run.attempts import FOLDER as ATTEMPTS
from engine.run.directory import RunDirectory
from engine.runfile.run import RunFile
from engine.storage.storage import Storage

if TYPE_CHECKING:
    from ray._private.node import Node

LOG = logging.getLogger(__name__)
# An actor needs some seconds to start.
USED_S = 90.0
LOOK_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Case:
    """The run of a study: its run file, its baseline run without faults, and the seconds that the baseline took."""

    run: RunFile
    run_file: Path
    baseline: RunDirectory
    baseline_s: float


class FaultRun:
    """Start a driver in `folder`, and count the faults and their effects.

    `kills` counts faults by target. `counts` has `in_work`, the shards that a stage had begun
    and not finished, summed over faults; `torn`, faults after which a file was half-written; `unmarked`, faults after
    which a tar had no marker yet; `orphans`, processes that outlived their driver; `failures`, drivers that ended by
    themselves with an error; `nodes_added` while there was work, and `nodes_used`, those of them that got actors.
    """

    def __init__(self, case: Case, folder: Path, rng: random.Random, nodes: Nodes | None) -> None:
        self.case, self.out, self.rng, self._nodes = case, folder / "run", rng, nodes
        self.kills: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self._orphans: list[tuple[float, list[psutil.Process]]] = []
        self._log = folder / "log.txt"
        self.start()

    @property
    def nodes(self) -> Nodes:
        """Return the nodes of the cluster; only for faults that need one."""
        assert self._nodes is not None
        return self._nodes

    def start(self) -> None:
        """Start a driver, as the user does after one was lost."""
        address = None if self._nodes is None else self._nodes.address
        self.driver = Driver(self.case.run_file, self.out, self._log, address)

    def orphan(self, processes: list[psutil.Process]) -> None:
        """Remember the processes of a dead driver."""
        self._orphans.append((time.monotonic() + GONE_S, processes))

    def end(self) -> None:
        """Wait for the processes of dead drivers; count and kill those that do not end."""
        self.counts["orphans"] += sum(outlast(processes, until) for until, processes in self._orphans)

    def is_over(self) -> bool:
        """Return whether the driver has ended."""
        return self.driver.exit_code() is not None

    def pause(self, mean_s: float) -> bool:
        """Wait an exponentially distributed time; return whether the run still goes on."""
        return wait_for(Moment(kind="any", after_s=self.rng.expovariate(1 / mean_s)), self.out, self.is_over)

    @contextmanager
    def fault(self, target: str) -> Iterator[None]:
        """Count the fault that the body injects, and the unfinished files after it."""
        in_work = {name[:6] for name in Storage(str(self.out)).list(ATTEMPTS, ".json")}
        yield
        files = files_of(self.out)
        torn, unmarked = files["write"] | files["marker"], files["rename"]
        self.kills[target] += 1
        self.counts.update(in_work=len(in_work), torn=min(len(torn), 1), unmarked=min(len(unmarked), 1))
        done = f"{len(files['done'])} of {self.case.baseline.info.num_shards} shards done"
        LOG.info("%s; %d half-written, %d without marker; %s", target, len(torn), len(unmarked), done)

    def wait_until_used(self, node: "Node") -> None:
        """Count a new node, and whether it gets actors; one that is added when no shard is left needs none."""
        end = time.monotonic() + USED_S
        while time.monotonic() < end and not self.is_over():
            if actors_on(node):
                self.counts.update(("nodes_added", "nodes_used"))
                return
            time.sleep(LOOK_S)
        self.counts["nodes_added"] += not self.is_over()

    def workers(self) -> dict[str, list[psutil.Process]]:
        """Return the worker processes of the run by actor pool, and those of tasks."""
        processes = self.driver.processes() if self._nodes is None else psutil.Process().children(recursive=True)
        found: dict[str, list[psutil.Process]] = {}
        for process in processes:
            if pool := pool_of(process):
                found.setdefault(pool, []).append(process)
        return found
