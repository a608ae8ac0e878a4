"""What benchmarks share: run files whose stages are all that counts, and a command line for parts."""

import argparse
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from engine.figures.figures import Figure, describe, machine, table, write_figures
from engine.runfile.run import RunFile

LOG = logging.getLogger(__name__)
Part = Callable[[Path], Iterator[Figure]]


def run_of_stages(
    name: str,
    sources: Path,
    sources_per_shard: int,
    stages: Mapping[str, object],
    probe: str,
    *,
    num_sources: int | None = None,
    **fields: object,
) -> RunFile:
    """Return a run file over a tar, in one split, all of it without `num_sources`; `probe` is a plugin's target."""
    data = {
        "train": {"kind": "webdataset", "path": str(sources)},
        "splits": {"train": 1.0, "validation": 0.0, "test": 0.0},
        "near_duplicates": "off",
        "num_sources": num_sources,
    }
    shards = {"sources_per_shard": sources_per_shard}
    run = {"name": name, "data": data, "shards": shards, "stages": stages, "probe": {"callable": probe}}
    return RunFile.model_validate(run | fields)


def run_parts(command: str, description: str | None, parts: Mapping[str, Part], prefix: str) -> None:
    """Measure the parts that the command line names, print their figures and write them to `prefix`-PART.json."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.benchmarks.{command}", description=description)
    parser.add_argument("--only", nargs="+", choices=list(parts), default=list(parts), help="some parts")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with tempfile.TemporaryDirectory(prefix=f"counterforge-{command}-") as folder:
        for name in options.only:
            LOG.info("%s: load %.1f", name, os.getloadavg()[0])
            figures = list(parts[name](Path(folder) / name))
            print(f"{table(figures)}\n{write_figures(f'{prefix}-{name}', figures)}\n", flush=True)
    print(describe(machine()))
