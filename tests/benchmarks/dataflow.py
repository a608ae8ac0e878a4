"""What a shard costs the driver: shards that need no work, as fast as they go, and what is kept of each."""

from collections.abc import Iterator
from pathlib import Path

from engine.figures.figures import Figure
from tests.benchmarks.fresh import measure
from tests.benchmarks.gpus import run_trial

FEW, MANY = 1_000, 4_000
NUM_ACTORS = 4


def dataflow_figures(folder: Path) -> Iterator[Figure]:
    """Yield how many shards a second go through, and what each costs the driver: the difference of two runs."""
    few, many = (measure("tests.benchmarks.dataflow:run_through", str(folder / str(num)), num) for num in (FEW, MANY))
    more = MANY - FEW
    seconds = many.result["seconds"] - few.result["seconds"]
    first = many.result["first_s"] - few.result["first_s"]
    yield Figure(name="dataflow.rate", value=more / seconds, n=more, unit="shards/s")
    yield Figure(name="dataflow.driver_time", value=1e3 * (many.core_s - few.core_s) / more, n=more, unit="ms a shard")
    yield Figure(
        name="dataflow.driver_memory", value=1024 * (many.peak_mib - few.peak_mib) / more, n=more, unit="KiB a shard"
    )
    yield Figure(name="dataflow.before_the_first", value=1e3 * first / more, n=more, unit="ms a shard")


def run_through(folder: str, num_shards: int) -> dict[str, float]:
    """Generate so many shards that need no work; return seconds from the first to the last, and before the first."""
    trial = run_trial(Path(folder), NUM_ACTORS, 0.0, num_shards // NUM_ACTORS)
    return {"seconds": trial.seconds, "first_s": trial.first_s}
