"""The statistical proofs (`make proofs`): prints each figure and writes build/figures/proofs-<part>.json.

On two cores `probe` and `slider` take a quarter of an hour each, `rounds` about as long a seed, `reinforce` and `curve`
half an hour a seed.
"""

import argparse
import sys
from collections.abc import Iterator

from cluster.studies.proofs.command import make_parser, run_parts
from engine.figures.figures import Figure

PARTS = ("probe", "reinforce", "curve", "rounds", "slider")


def main() -> int:
    """Run the chosen parts, one after another."""
    parser = make_parser("cluster.studies.proofs", __doc__, PARTS, num_seeds=5)
    parser.add_argument(
        "--patients",
        type=int,
        default=20,
        help="classifiers with a planted weakness, and as many without (20)",
    )
    return run_parts(parser.parse_args(), PARTS, _figures)


def _figures(part: str, options: argparse.Namespace) -> Iterator[Figure]:
    from cluster.studies.proofs.curve import curve_figures
    from cluster.studies.proofs.planted.probe import probe_figures
    from cluster.studies.proofs.reinforce import reinforce_figures
    from cluster.studies.proofs.rounds import rounds_figures
    from cluster.studies.proofs.slider import slider_figures

    if part == "probe":
        return probe_figures(options.runs, options.patients)
    if part == "slider":
        return slider_figures(options.runs)
    figures = {"reinforce": reinforce_figures, "curve": curve_figures, "rounds": rounds_figures}[part]
    return figures(options.runs, range(options.seeds))


if __name__ == "__main__":
    sys.exit(main())
