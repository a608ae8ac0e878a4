"""One trial: a run with faults until their number is reached or the run has ended, then left to end by itself."""

import json
import logging
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.studies.chaos.fault_run import Case, FaultRun
from cluster.studies.chaos.faults import Fault
from cluster.studies.chaos.injection import INJECTORS
from cluster.studies.chaos.nodes import NUM_NODES, Nodes
from engine.audit.exactness import compare_runs
from engine.run.directory import RunDirectory

LOG = logging.getLogger(__name__)
# A run may take this many times the baseline, and this time to start.
MAX_SLOWDOWN, START_S = 10.0, 600.0
NUM_EXAMPLES = 5


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The faults of one run, and its differences from the baseline.

    `kills` and `counts` are those of FaultRun; `counts` has also the run's `samples`, those `lost` and `duplicated`,
    files with `different` bytes and `leftover` files, which should not be there.
    """

    fault: Fault
    kills: Mapping[str, int]
    seconds: float
    counts: Mapping[str, int]
    examples: Sequence[str]

    @property
    def num_kills(self) -> int:
        """Return the number of faults."""
        return sum(self.kills.values())

    def to_json(self) -> str:
        """Return the trial as JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"


def run_trial(fault: Fault, case: Case, folder: Path, num_kills: int, rng: random.Random) -> Trial:
    """Run the case once in an empty `folder` with at most `num_kills` faults; RunError if it does not end well."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        nodes = None
        if fault not in ("driver", "actor"):
            nodes = Nodes(case.run)
            stack.callback(nodes.stop)
            for _ in range(0 if fault == "late" else NUM_NODES):
                nodes.add()
        start = time.monotonic()
        run = FaultRun(case, folder, rng, nodes)
        stack.callback(lambda: run.driver.kill(run.driver.processes()))
        while run.kills.total() < num_kills and not _has_ended(run):
            INJECTORS[fault](run)
        run.driver.finish(MAX_SLOWDOWN * case.baseline_s + START_S)
        seconds = time.monotonic() - start
        run.end()
    found = compare_runs(case.baseline, RunDirectory.open(str(run.out)))
    named = {kind: getattr(found, kind) for kind in ("lost", "duplicated", "different", "leftover")}
    run.counts.update(samples=found.num_samples, **{kind: len(names) for kind, names in named.items()})
    examples = [f"{kind}: {name}" for kind, names in named.items() for name in names][:NUM_EXAMPLES]
    return Trial(fault=fault, kills=dict(run.kills), seconds=seconds, counts=dict(run.counts), examples=examples)


def _has_ended(run: FaultRun) -> bool:
    """Return whether the run is done; restart a driver that ended with an error, as its user would."""
    if (code := run.driver.exit_code()) in (None, 0):
        return code == 0
    run.counts["failures"] += 1
    LOG.warning("the driver failed: %s", run.driver.log_end())
    run.start()
    return False
