"""A run that is being disturbed: its drivers, one after the other, its nodes, and what was done to it so far."""

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
from cluster.studies.chaos.moments import Moment, State, wait_for
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
    """Hold what is run: its run file, its undisturbed run, and how long that took."""

    run: RunFile
    run_file: Path
    calm: RunDirectory
    calm_s: float


class World:
    """Start a driver in `folder`, and keep the tallies of what befalls it.

    `kills` counts by what was struck. `in_work` sums, over the faults, the shards that a stage had begun and not ended;
    `torn` counts the faults after which a file lay about half-written, `unmarked` those after which a tar had no marker
    yet. `orphans` outlived their driver, `failures` are drivers that ended by themselves and not well. Of the
    `nodes_added` while there was work `nodes_used` got actors.
    """

    def __init__(self, case: Case, folder: Path, chance: random.Random, nodes: Nodes | None) -> None:
        self.case, self.out, self.chance, self.nodes = case, folder / "run", chance, nodes
        self.kills: Counter[str] = Counter()
        self.in_work = self.torn = self.unmarked = self.orphans = self.failures = 0
        self.nodes_added = self.nodes_used = 0
        self._left_behind: list[tuple[float, list[psutil.Process]]] = []
        self._log = folder / "log.txt"
        self.start()

    def start(self) -> None:
        """Start a driver, as the user does again after one that was lost."""
        address = None if self.nodes is None else self.nodes.address
        self.driver = Driver(self.case.run_file, self.out, self._log, address)

    def leave_behind(self, processes: list[psutil.Process]) -> None:
        """Remember the processes of a driver that is dead now."""
        self._left_behind.append((time.monotonic() + GONE_S, processes))

    def end(self) -> None:
        """Count, and end, the processes that outlived their driver by far; wait until that is known of all."""
        self.orphans += sum(outlast(processes, until) for until, processes in self._left_behind)

    def is_over(self) -> bool:
        """Return whether the driver has ended."""
        return not self.driver.is_running()

    def pause(self, mean_s: float) -> bool:
        """Wait a random time, most often short and now and then long; return whether there is still something to do."""
        return wait_for(Moment(kind="any", after_s=self.chance.expovariate(1 / mean_s)), self.out, self.is_over)

    @contextmanager
    def noted(self, what: str) -> Iterator[None]:
        """Count what is struck, and what lies about afterwards."""
        notes = Storage(str(self.out)).list(ATTEMPTS, ".json")
        yield
        state = State.of(self.out)
        self.kills[what] += 1
        self.in_work += len({name[:6] for name in notes})
        self.torn += bool(state.writing or state.marking)
        self.unmarked += bool(state.unmarked)
        num_shards = self.case.calm.info.num_shards
        LOG.info("%s; %s; %d of %d shards done", what, state.describe(), len(state.markers), num_shards)

    def join(self) -> "Node":
        """Let a node join."""
        assert self.nodes is not None
        return self.nodes.add()

    def watch(self, node: "Node") -> None:
        """See whether a node that has joined gets actors; one that came when all the work had gone out needs none."""
        end = time.monotonic() + USED_S
        while time.monotonic() < end and not self.is_over():
            if actors_on(node):
                self.nodes_added += 1
                self.nodes_used += 1
                return
            time.sleep(LOOK_S)
        self.nodes_added += not self.is_over()

    def workers(self) -> dict[str, list[psutil.Process]]:
        """Return the workers of the run by pool, and the tasks."""
        processes = self.driver.processes() if self.nodes is None else psutil.Process().children(recursive=True)
        found: dict[str, list[psutil.Process]] = {}
        for process in processes:
            if pool := pool_of(process):
                found.setdefault(pool, []).append(process)
        return found
