"""The statistical proofs (`make proofs`): prints each figure and writes build/figures/proofs-<part>.json.

On two cores `rounds` takes a quarter of an hour a seed, `slider` half an hour, `reinforce` and `curve` as long a seed.
"""

import argparse
import sys
from collections.abc import Iterator

from cluster.studies.proofs.command import make_parser, run_parts
from engine.figures.figures import Figure

PARTS = ("reinforce", "curve", "rounds", "slider")


def main() -> int:
    """Run the chosen parts, one after another."""
    parser = make_parser("cluster.studies.proofs", __doc__, PARTS, num_seeds=5)
    return run_parts(parser.parse_args(), PARTS, _figures)


def _figures(part: str, options: argparse.Namespace) -> Iterator[Figure]:
    from cluster.studies.proofs.curve import curve_figures
    from cluster.studies.proofs.reinforce import reinforce_figures
    from cluster.studies.proofs.rounds import rounds_figures
    from cluster.studies.proofs.slider import slider_figures

    if part == "slider":
        return slider_figures(options.runs)
    figures = {"reinforce": reinforce_figures, "curve": curve_figures, "rounds": rounds_figures}[part]
    return figures(options.runs, range(options.seeds))


if __name__ == "__main__":
    sys.exit(main())
