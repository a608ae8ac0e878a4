"""The study: an undisturbed run, then runs under each fault until its kills are spent; trials that are there stay."""

import json
import logging
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.studies.chaos.driver import Driver
from cluster.studies.chaos.faults import FAULTS, Fault
from cluster.studies.chaos.nodes import own_ray
from cluster.studies.chaos.trial import Trial, run_trial
from cluster.studies.chaos.world import Case
from engine.errors import RunDirectoryError
from engine.plan.plan import make_plan
from engine.run.directory import RunDirectory
from engine.runfile.load import dump_run_file
from engine.runfile.run import RunFile
from engine.shards.marker import revision, versions
from engine.wording import duration

LOG = logging.getLogger(__name__)
STAMP, TRIAL, RUN_FILE, SECONDS = "study.json", "trial.json", "run.yaml", "seconds.json"
# Of a node that is lost or drained its successor has to start actors: a strike costs as much as ten at a worker.
KILLS_A_NODE = 10
NUM_LATE = 2
# An undisturbed run takes as long as it takes; nobody waits for a day.
CALM_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Study:
    """Hold what is to be done: `num_kills` each of drivers and of workers, a tenth as many of nodes."""

    run: RunFile
    folder: Path
    faults: Sequence[Fault]
    num_kills: int
    seed: int = 0

    def trials(self) -> Iterator[Trial]:
        """Yield every trial, those that were made before and those that are made now.

        Raises RunDirectoryError where the folder holds trials of another plan, code or seed, RunError where a run
        cannot be ended.
        """
        self._claim()
        with own_ray():
            case = self._undisturbed()
            for fault in FAULTS:
                wanted = self._wanted(fault) if fault in self.faults else 0
                yield from self._of(fault, case, wanted)

    def _of(self, fault: Fault, case: Case, wanted: int) -> Iterator[Trial]:
        done, number, start = 0, 0, time.monotonic()
        new = 0
        while done < wanted or (self._folder(fault, number) / TRIAL).exists():
            folder = self._folder(fault, number)
            if (folder / TRIAL).exists():
                trial = Trial(**json.loads((folder / TRIAL).read_text()))
            else:
                # The seed of a trial is that of its number: one that was cut off strikes at the same moments again.
                chance = random.Random(f"{self.seed} {fault} {number}")
                # Not all in one run: early and late moments, and every pool, are to be struck.
                trial = run_trial(fault, case, folder, min(wanted - done, case.calm.info.num_shards), chance)
                (folder / TRIAL).write_text(trial.to_json())
                new += trial.num_kills
            done, number = done + trial.num_kills, number + 1
            left = (time.monotonic() - start) / new * max(wanted - done, 0) if new else 0.0
            rest = f", {duration(left)} left" if left else ""
            LOG.info("%s: %d of %d in %d runs%s", fault, done, wanted, number, rest)
            yield trial

    def _wanted(self, fault: Fault) -> int:
        match fault:
            case "driver" | "actor":
                return self.num_kills
            case "late":
                return NUM_LATE
            case _:
                return max(self.num_kills // KILLS_A_NODE, 1)

    def _folder(self, fault: Fault, number: int) -> Path:
        return self.folder / f"{fault}-{number:03d}"

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

    def _undisturbed(self) -> Case:
        folder, run_file = self.folder / "calm", self.folder / RUN_FILE
        folder.mkdir(exist_ok=True)
        if not (folder / SECONDS).exists():
            LOG.info("a run that nobody disturbs, in %s", folder)
            start = time.monotonic()
            Driver(run_file, folder / "run", folder / "log.txt").finish(CALM_S)
            (folder / SECONDS).write_text(json.dumps(time.monotonic() - start))
        calm_s = calm_seconds(self.folder)
        calm = RunDirectory.open(str(folder / "run"))
        LOG.info("undisturbed it takes %s for %d shards", duration(calm_s), calm.info.num_shards)
        return Case(run=self.run, run_file=run_file, calm=calm, calm_s=calm_s)


def calm_seconds(folder: Path) -> float:
    """Return what the undisturbed run of a study took, in seconds."""
    return float(json.loads((folder / "calm" / SECONDS).read_text()))
