"""The statistical proofs (`make proofs`): prints each figure and writes build/figures/proofs-<part>.json.

On two cores `probe` takes a quarter of an hour, `rounds` about as long a seed, `reinforce` and `curve` half an hour a
seed.
"""

import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from engine.errors import EngineError
from engine.figures.figures import FIGURES_FOLDER, Figure, describe, machine, table, write_figures

PARTS = ("probe", "reinforce", "curve", "rounds")
FOLDER = Path("build/proofs")


def main() -> int:
    """Run the chosen parts, one after another."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster.studies.proofs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="run this part only; repeatable")
    parser.add_argument("--seeds", type=int, default=3, help="runs of `reinforce`, `curve` and `rounds` (default: 3)")
    parser.add_argument(
        "--patients",
        type=int,
        default=20,
        help="classifiers with a planted weakness, and as many without (20)",
    )
    parser.add_argument("--runs", type=Path, default=FOLDER, help="folder of the runs, which resume")
    parser.add_argument("--out", type=Path, default=FIGURES_FOLDER, help="folder of the figures")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    missed: list[str] = []
    try:
        for part in options.only or PARTS:
            figures = list(_figures(part, options))
            path = write_figures(f"proofs-{part}", figures, options.out)
            print(f"\n{table(figures)}\n\n{describe(machine())}\n{path}\n", flush=True)
            missed += [figure.name for figure in figures if figure.met is False]
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{len(missed)} targets missed: {', '.join(missed)}" if missed else "every target is met")
    return 0


def _figures(part: str, options: argparse.Namespace) -> Iterator[Figure]:
    from cluster.studies.proofs.curve import curve_figures
    from cluster.studies.proofs.probe import probe_figures
    from cluster.studies.proofs.reinforce import reinforce_figures
    from cluster.studies.proofs.rounds import rounds_figures

    if part == "probe":
        return probe_figures(options.runs, options.patients)
    figures = {"reinforce": reinforce_figures, "curve": curve_figures, "rounds": rounds_figures}[part]
    return figures(options.runs, range(options.seeds))


if __name__ == "__main__":
    sys.exit(main())
