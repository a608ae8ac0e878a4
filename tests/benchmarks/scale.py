"""How far it scales, on one machine: planning, going on in a large run, actors of simulated GPUs.

Prints a table for each part, writes build/figures/bench-scale-PART.json. Figures of time want a machine that does
nothing else.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

from engine.figures.figures import Figure
from tests.benchmarks.dataflow import dataflow_figures
from tests.benchmarks.gpus import fault_figures, run_trial, scaling_figures
from tests.benchmarks.planning import planning_figures
from tests.benchmarks.resuming import resuming_figures, row_figures, store_figures
from tests.benchmarks.runs import Part, run_parts

# Actors, seconds of a shard on a simulated GPU, shards for each actor. Shards are long enough for two cores to feed all
# the actors, and so many that the tail, in which actors run out of shards one by one, leaves room for the target: of 64
# actors with 30 shards each none could do better than 0.9755, of 8 with 60 each than 0.986.
FEW, MANY = (8, 2.5, 200), (64, 10.0, 50)
KILL_EVERY_S = 30.0


def planning(folder: Path) -> Iterator[Figure]:
    """Plan one and ten million sources."""
    for num_sources in (1_000_000, 10_000_000):
        yield from planning_figures(folder / f"plan-{num_sources}", num_sources)


def resuming(folder: Path) -> Iterator[Figure]:
    """Go on among a hundred thousand markers on a disk, and five thousand on a server that speaks S3; read all rows."""
    yield from resuming_figures(folder / "resume", 100_000)
    yield from store_figures(folder / "store", 5_000)
    yield from row_figures(folder, 4_000)


def dataflow(folder: Path) -> Iterator[Figure]:
    """Send shards through that take no time."""
    yield from dataflow_figures(folder / "dataflow")


def gpus(folder: Path) -> Iterator[Figure]:
    """Keep 8 and 64 actors busy, and 8 of which one is killed every half minute."""
    few = run_trial(folder / "few", *FEW)
    yield from scaling_figures(few, 0.99)
    yield from fault_figures(few, run_trial(folder / "struck", *FEW, kill_every_s=KILL_EVERY_S))
    yield from scaling_figures(run_trial(folder / "many", *MANY), 0.97)


PARTS: dict[str, Part] = {
    "planning": planning,
    "resuming": resuming,
    "dataflow": dataflow,
    "gpus": gpus,
}


def main() -> None:
    """Measure what was asked for, print the figures and write them."""
    # The server that speaks S3 tells each of thousands of requests.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    run_parts("scale", __doc__, PARTS, "bench-scale")


if __name__ == "__main__":
    main()
