"""Planted and clean classifiers: prints each figure and writes build/figures/proofs-<part>.json.

On two cores each part takes a quarter of an hour.
"""

import argparse
import sys
from collections.abc import Iterator

from cluster.studies.proofs.command import make_parser, run_parts
from engine.figures.figures import Figure

PARTS = ("probe", "removal")


def main() -> int:
    """Run the chosen parts, one after another."""
    parser = make_parser("cluster.studies.proofs.planted", __doc__, PARTS, num_seeds=20)
    return run_parts(parser.parse_args(), PARTS, _figures)


def _figures(part: str, options: argparse.Namespace) -> Iterator[Figure]:
    from cluster.studies.proofs.planted.probe import probe_figures
    from cluster.studies.proofs.planted.removal import removal_figures

    # A seed is a classifier with a planted weakness and one without.
    return (probe_figures if part == "probe" else removal_figures)(options.runs, options.seeds)


if __name__ == "__main__":
    sys.exit(main())
