"""The study: a baseline run without faults, then trials with each fault; finished trials are kept."""

import json
import logging
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from cluster.studies.chaos.driver import Driver
from cluster.studies.chaos.fault_run import Case
from cluster.studies.chaos.faults import FAULTS, Fault
from cluster.studies.chaos.nodes import own_ray
from cluster.studies.chaos.trial import Trial, run_trial
from engine.errors import RunDirectoryError
from engine.plan.plan import make_plan
from engine.run.directory import RunDirectory
from engine.runfile.load import dump_run_file
from engine.runfile.run import RunFile
from engine.shards.marker import revision, versions
from engine.wording import duration

LOG = logging.getLogger(__name__)
STAMP, TRIAL, RUN_FILE, SECONDS, BASELINE = "study.json", "trial.json", "run.yaml", "seconds.json", "baseline"
# After the loss of a node its successor has to start actors, which takes as long as ten kills of workers.
KILLS_A_NODE = 10
NUM_LATE = 2
BASELINE_TIMEOUT_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Study:
    """The plan of a study: `num_kills` each of drivers and of workers, a tenth as many of nodes."""

    run: RunFile
    folder: Path
    faults: Sequence[Fault]
    num_kills: int
    seed: int = 0

    def trials(self) -> Iterator[Trial]:
        """Yield every trial, finished ones from the folder and new ones.

        Raises RunDirectoryError where the folder holds trials of another plan, code or seed, RunError where a run
        does not end well.
        """
        self._claim()
        with own_ray():
            case = self._baseline()
            wanted = dict.fromkeys(FAULTS, max(self.num_kills // KILLS_A_NODE, 1))
            wanted |= {"driver": self.num_kills, "actor": self.num_kills, "late": NUM_LATE}
            for fault in FAULTS:
                yield from self._of(fault, case, wanted[fault] if fault in self.faults else 0)

    def _of(self, fault: Fault, case: Case, wanted: int) -> Iterator[Trial]:
        done, new, start = 0, 0, time.monotonic()
        for number in count():
            folder = self.folder / f"{fault}-{number:03d}"
            if (path := folder / TRIAL).exists():
                trial = Trial(**json.loads(path.read_text()))
            elif done < wanted:
                # Seeded by its number: an interrupted trial has the same faults when it is repeated.
                rng = random.Random(f"{self.seed} {fault} {number}")
                # Several runs, so that there are faults early and late, and in every pool.
                trial = run_trial(fault, case, folder, min(wanted - done, case.baseline.info.num_shards), rng)
                path.write_text(trial.to_json())
                new += trial.num_kills
            else:
                return
            done += trial.num_kills
            left = (time.monotonic() - start) / new * max(wanted - done, 0) if new else 0.0
            rest = f", {duration(left)} left" if left else ""
            LOG.info("%s: %d of %d in %d runs%s", fault, done, wanted, number + 1, rest)
            yield trial

    def _claim(self) -> None:
        stamp = {
            "plan": make_plan(self.run).digest,
            "revision": revision(),
            "versions": versions(),
            "seed": self.seed,
        }
        path = self.folder / STAMP
        if path.exists() and json.loads(path.read_text()) != stamp:
            raise RunDirectoryError(
                f"{self.folder} holds trials of another run file, seed or state of the code: choose another folder "
                "with --out, or delete it"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(stamp, indent=1) + "\n")
        (self.folder / RUN_FILE).write_text(dump_run_file(self.run))

    def _baseline(self) -> Case:
        folder, run_file = self.folder / BASELINE, self.folder / RUN_FILE
        folder.mkdir(exist_ok=True)
        if not (folder / SECONDS).exists():
            LOG.info("baseline run without faults, in %s", folder)
            start = time.monotonic()
            Driver(run_file, folder / "run", folder / "log.txt").finish(BASELINE_TIMEOUT_S)
            (folder / SECONDS).write_text(json.dumps(time.monotonic() - start))
        baseline_s = baseline_seconds(self.folder)
        baseline = RunDirectory.open(str(folder / "run"))
        LOG.info("the baseline takes %s for %d shards", duration(baseline_s), baseline.info.num_shards)
        return Case(run=self.run, run_file=run_file, baseline=baseline, baseline_s=baseline_s)


def baseline_seconds(folder: Path) -> float:
    """Return the seconds of the baseline run of a study."""
    return float(json.loads((folder / BASELINE / SECONDS).read_text()))
