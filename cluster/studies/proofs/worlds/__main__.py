"""The worlds where edits matter (`make proofs-worlds`): prints each figure and writes build/figures/proofs-<part>.json.

A seed takes some ten minutes on two idle cores.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cluster.studies.proofs.command import make_parser, run_parts
from engine.figures.figures import Figure

PARTS = ("total", "rare", "two", "noise", "stamps", "clean")


def main() -> int:
    """Run the chosen parts, one after another."""
    options = make_parser("cluster.studies.proofs.worlds", __doc__, PARTS, num_seeds=5).parse_args()
    return run_parts(options, PARTS, _figures)


def _figures(part: str, options: argparse.Namespace) -> Iterator[Figure]:
    from cluster.studies.proofs.worlds.clean import clean_figures
    from cluster.studies.proofs.worlds.noise import noise_figures
    from cluster.studies.proofs.worlds.rare import rare_figures
    from cluster.studies.proofs.worlds.stamps import stamps_figures
    from cluster.studies.proofs.worlds.total import total_figures
    from cluster.studies.proofs.worlds.two import two_figures

    parts: dict[str, Callable[[Path, Sequence[int]], Iterator[Figure]]] = {
        "total": total_figures,
        "rare": rare_figures,
        "two": two_figures,
        "noise": noise_figures,
        "stamps": stamps_figures,
        "clean": clean_figures,
    }
    # Seed 0 was looked at while the worlds' settings were chosen.
    return parts[part](options.runs, range(1, 1 + options.seeds))


if __name__ == "__main__":
    sys.exit(main())
