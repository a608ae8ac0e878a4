"""`make bench`: every figure of performance that needs no GPU, each against its target and its peers.

Prints a table for each part, writes build/figures/bench-PART.json. Ratios are of two arms measured in turn in one run;
a machine that does other work besides blurs them, and does not turn them round.
"""

import argparse
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from engine.figures.figures import Figure, describe, machine, table, write_figures

LOG = logging.getLogger(__name__)
Part = Callable[[Path], Iterator[Figure]]


def parts() -> dict[str, Part]:
    """Return the parts by name, imported when they are wanted."""
    from tests.benchmarks.early import early_figures
    from tests.benchmarks.finish import finish_figures
    from tests.benchmarks.handoff import handoff_figures
    from tests.benchmarks.language import language_figures
    from tests.benchmarks.loader import loader_figures
    from tests.benchmarks.slots import slot_figures
    from tests.benchmarks.writer import writer_figures

    return {
        "slots": slot_figures,
        "early": early_figures,
        "writer": writer_figures,
        "finish": finish_figures,
        "handoff": handoff_figures,
        "language": language_figures,
        "loader": loader_figures,
    }


def main() -> None:
    """Run the parts, print their figures and write them."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    known = parts()
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(known), default=list(known), help="some parts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            LOG.info("%s", name)
            found = list(known[name](Path(folder, name)))
            print(f"{table(found)}\n{write_figures(f'bench-{name}', found)}\n", flush=True)
    print(describe(machine()))


if __name__ == "__main__":
    main()
