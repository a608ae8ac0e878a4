"""How well actors with simulated GPUs are kept busy, and what it costs when they die: real shards, real Ray.

A process an actor sleeps where it would wait for its GPU, so two cores can feed many. All that is not sleep is loss:
starting tasks, moving shards, reading and committing them, the tail in which some actors have nothing left to do. The
clock starts when all actors are up, as the models of a real run are loaded once, and stops at the last marker. An actor
takes a few seconds to be up, as if it loaded a model: its shards are read meanwhile, as in a real run.

Without any loss the actors would still not end together: `possible` is the efficiency of actors that take the shards
of the same run, in their order, and need no time between them.
"""

import heapq
import logging
import random
import shutil
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.phases.generate import generate_run
from cluster.session.placement import Need
from cluster.session.session import ray_session
from cluster.studies.chaos.driver import kill_all, pool_of
from engine.audit.exactness import compare_runs
from engine.figures.figures import Figure
from engine.plan.plan import make_plan
from engine.run.directory import DONE, RunDirectory
from engine.runfile.run import RunFile
from tests.benchmarks.pairs import core_seconds
from tests.benchmarks.runs import run_of_stages
from tests.benchmarks.simulated import gpu_seconds, write_images

LOG = logging.getLogger(__name__)
STAGE, PLUGIN = "gpu", "tests.benchmarks.simulated:SimulatedGpu"
SOURCES_PER_SHARD = 4
SPREAD = 0.3
ACTOR_CPUS = 0.05
LOAD_S = 5.0
# More than there are: reads, commits and the actors wait most of the time.
SESSION_CPUS = 6
LOOK_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Hold one run: its directory, seconds from when all actors were up to the last marker, how many were killed.

    `first_s` is from the start of the dataflow to the first marker, `gpu_s` are the seconds of each shard on a GPU,
    `waits_s` those of an actor between two shards, `core_s` what all cores of the machine worked meanwhile.
    """

    rundir: RunDirectory
    num_actors: int
    first_s: float
    seconds: float
    gpu_s: Sequence[float]
    waits_s: Sequence[float]
    core_s: float
    kills: int
    actor_mib: float

    @property
    def efficiency(self) -> float:
        """Return the share of the time in which an actor was at work."""
        return sum(self.gpu_s) / self.num_actors / self.seconds

    @property
    def possible(self) -> float:
        """Return the efficiency of actors that take these shards one by one and need no time between them."""
        free_at = [0.0] * self.num_actors
        for seconds in self.gpu_s:
            heapq.heapreplace(free_at, free_at[0] + seconds)
        return sum(self.gpu_s) / self.num_actors / max(free_at)


def scaling_figures(trial: Trial, target: float) -> Iterator[Figure]:
    """Yield how busy a trial kept its actors, and what one of them weighs."""
    name = f"actors_{trial.num_actors}"
    yield Figure(
        name=f"{name}.efficiency",
        value=trial.efficiency,
        target=target,
        better="higher",
        n=trial.rundir.info.num_shards,
    )
    yield Figure(name=f"{name}.possible", value=trial.possible, unit="")
    yield Figure(
        name=f"{name}.between_shards", value=1e3 * statistics.median(trial.waits_s), n=len(trial.waits_s), unit="ms"
    )
    yield Figure(name=f"{name}.rate", value=trial.rundir.info.num_shards / trial.seconds, unit="shards/s")
    yield Figure(name=f"{name}.core_use", value=trial.core_s / trial.seconds, unit="cores")
    yield Figure(name=f"{name}.actor_memory", value=trial.actor_mib, unit="MiB")


def fault_figures(calm: Trial, struck: Trial) -> Iterator[Figure]:
    """Yield what is left of the throughput where actors are killed, and whether every byte is the same."""
    found = compare_runs(calm.rundir, struck.rundir)
    wrong = len(found.lost) + len(found.duplicated) + len(found.different) + len(found.leftover)
    kept = calm.seconds / struck.seconds
    yield Figure(name="kills.throughput", value=kept, target=0.95, better="higher", n=struck.kills)
    yield Figure(name="kills.wrong", value=wrong, target=0, better="lower", unit="samples, files", n=found.num_samples)


def run_trial(
    folder: Path, num_actors: int, mean_s: float, shards_each: int, kill_every_s: float | None = None
) -> Trial:
    """Generate a run with actors of simulated GPUs; with `kill_every_s` a random one of them is killed so often."""
    shutil.rmtree(folder, ignore_errors=True)
    meeting, waits = folder / "meeting", folder / "waits"
    for place in (meeting, waits):
        place.mkdir(parents=True)
    write_images(folder / "images.tar", num_actors * shards_each * SOURCES_PER_SHARD)
    run = _run_file(folder, num_actors, mean_s)
    plan = make_plan(run)
    rundir = RunDirectory.create(str(folder / "run"), run, plan)
    watch = Watch(meeting, num_actors, kill_every_s)
    room = Need(path=f"stages.{STAGE}", num_cpus=1, num_gpus=0, replicas=(SESSION_CPUS, SESSION_CPUS))
    with ray_session([[room]]), watch:
        start = time.time()
        generate_run(run, rundir, plan)
    done = [path.stat().st_mtime for path in (folder / "run" / DONE).iterdir()]
    trial = Trial(
        rundir=rundir,
        num_actors=num_actors,
        first_s=min(done) - start,
        seconds=max(done) - watch.up_since,
        gpu_s=[gpu_seconds(plan.keys(index)[0], mean_s, SPREAD) for index in range(plan.num_shards)],
        waits_s=[float(line) for path in waits.iterdir() for line in path.read_text().splitlines()],
        core_s=watch.core_s,
        kills=watch.kills,
        actor_mib=watch.actor_mib,
    )
    LOG.info("%s: %.1f s, %d kills", folder.name, trial.seconds, trial.kills)
    return trial


class Watch:
    """Look at the actors of a run from a thread: when all are up, what they weigh; kill one of them now and then."""

    def __init__(self, meeting: Path, num_actors: int, kill_every_s: float | None) -> None:
        self.up_since = self.core_s = self.actor_mib = 0.0
        self.kills = 0
        self._meeting, self._num_actors, self._every_s = meeting, num_actors, kill_every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch")

    def __enter__(self) -> None:
        """Start to look."""
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while len(list(self._meeting.iterdir())) < self._num_actors:
            if self._stop.wait(LOOK_S):
                return
        self.up_since = max(path.stat().st_mtime for path in self._meeting.iterdir())
        LOG.info("%d actors are up", self._num_actors)
        self.actor_mib = statistics.median(process.memory_full_info().uss for process in self._actors()) / 2**20
        before = core_seconds()
        chance = random.Random(0)
        while not self._stop.wait(self._every_s):
            kill_all([chance.choice(self._actors())])
            self.kills += 1
        self.core_s = core_seconds() - before

    def _actors(self) -> list[psutil.Process]:
        return [process for process in psutil.Process().children(recursive=True) if pool_of(process) == STAGE]


def _run_file(folder: Path, num_actors: int, mean_s: float) -> RunFile:
    options = {"load_s": LOAD_S, "mean_s": mean_s, "spread": SPREAD, "num_actors": num_actors}
    options |= {name: str(folder / name) for name in ("meeting", "waits")}
    stage = {
        "kind": "plugin",
        "target": PLUGIN,
        "options": options,
        "placement": {"replicas": [num_actors, num_actors], "num_cpus": ACTOR_CPUS},
    }
    return run_of_stages("simulated", folder / "images.tar", SOURCES_PER_SHARD, {STAGE: stage}, PLUGIN)
