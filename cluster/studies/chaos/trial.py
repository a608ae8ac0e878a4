"""One trial: a run that is disturbed until its faults are spent or it has ended, and then left to itself."""

import json
import logging
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.studies.chaos.faults import Fault
from cluster.studies.chaos.nodes import NUM_NODES, Nodes
from cluster.studies.chaos.strikes import strike_of
from cluster.studies.chaos.world import Case, World
from engine.audit.exactness import compare_runs
from engine.run.directory import RunDirectory

LOG = logging.getLogger(__name__)
# A run that nobody disturbs any more may take so many times what the undisturbed one took, and this to start.
PATIENCE, START_S = 10.0, 600.0
NUM_EXAMPLES = 5


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Hold what was done to one run, and how it differs from the undisturbed one. The tallies are those of World.

    `lost`, `duplicated` count samples, `different` files whose bytes differ, `leftover` files that should not be there.
    """

    fault: Fault
    kills: Mapping[str, int]
    seconds: float
    in_work: int
    torn: int
    unmarked: int
    orphans: int
    failures: int
    nodes_added: int
    nodes_used: int
    samples: int
    lost: int
    duplicated: int
    different: int
    leftover: int
    examples: Sequence[str]

    @property
    def num_kills(self) -> int:
        """Return how often the run was struck."""
        return sum(self.kills.values())

    def to_json(self) -> str:
        """Return the trial as JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"


def run_trial(fault: Fault, case: Case, folder: Path, num_kills: int, chance: random.Random) -> Trial:
    """Run the case once in an empty `folder`, under at most `num_kills` strikes; RunError where it cannot be ended."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    strike = strike_of(fault)
    with ExitStack() as stack:
        nodes = None
        if fault not in ("driver", "actor"):
            nodes = Nodes(case.run)
            stack.callback(nodes.stop)
            for _ in range(0 if fault == "late" else NUM_NODES):
                nodes.add()
        start = time.monotonic()
        world = World(case, folder, chance, nodes)
        stack.callback(lambda: world.driver.kill(world.driver.processes()))
        while world.kills.total() < num_kills and not _has_ended(world):
            strike(world)
        world.driver.finish(PATIENCE * case.calm_s + START_S)
        seconds = time.monotonic() - start
        world.end()
        return _judge(fault, world, seconds)


def _has_ended(world: World) -> bool:
    """Return whether the run is done; start it again where its driver ended otherwise, as its user would."""
    if not world.is_over() or world.driver.ended_well():
        return world.is_over()
    world.failures += 1
    LOG.warning("the driver gave up: %s", world.driver.last_words())
    world.start()
    return False


def _judge(fault: Fault, world: World, seconds: float) -> Trial:
    found = compare_runs(world.case.calm, RunDirectory.open(str(world.out)))
    named = {"lost": found.lost, "twice": found.duplicated, "different": found.different, "left": found.leftover}
    return Trial(
        fault=fault,
        kills=dict(world.kills),
        seconds=seconds,
        in_work=world.in_work,
        torn=world.torn,
        unmarked=world.unmarked,
        orphans=world.orphans,
        failures=world.failures,
        nodes_added=world.nodes_added,
        nodes_used=world.nodes_used,
        samples=found.num_samples,
        lost=len(found.lost),
        duplicated=len(found.duplicated),
        different=len(found.different),
        leftover=len(found.leftover),
        examples=[f"{what}: {name}" for what, names in named.items() for name in names][:NUM_EXAMPLES],
    )
