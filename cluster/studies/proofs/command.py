"""The command of the proofs: run the chosen parts, print each figure and write build/figures/proofs-<part>.json."""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cluster.session.threads import share_cores
from engine.errors import EngineError
from engine.figures.figures import FIGURES_FOLDER, Figure, describe, machine, table, write_figures

FOLDER = Path("build/proofs")


def make_parser(name: str, description: str | None, parts: Sequence[str], num_seeds: int) -> argparse.ArgumentParser:
    """Return the parser of a module that runs studies: `only`, `seeds`, `runs` and `out`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=parts, action="append", help="run this part only; repeatable")
    parser.add_argument("--seeds", type=int, default=num_seeds, help=f"runs of each part (default: {num_seeds})")
    parser.add_argument("--runs", type=Path, default=FOLDER, help="folder of the runs, which resume")
    parser.add_argument("--out", type=Path, default=FIGURES_FOLDER, help="folder of the figures")
    return parser


def run_parts(
    options: argparse.Namespace, parts: Sequence[str], figures_of: Callable[[str, argparse.Namespace], Iterator[Figure]]
) -> int:
    """Run the chosen parts, one after another, print and write the figures of each, and return the exit code."""
    share_cores()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    missed: list[str] = []
    try:
        for part in options.only or parts:
            figures = list(figures_of(part, options))
            path = write_figures(f"proofs-{part}", figures, options.out)
            print(f"\n{table(figures)}\n\n{describe(machine())}\n{path}\n", flush=True)
            missed += [figure.name for figure in figures if figure.met is False]
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{len(missed)} targets missed: {', '.join(missed)}" if missed else "every target is met")
    return 0
