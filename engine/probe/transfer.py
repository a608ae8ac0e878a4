"""Transfer: whether the weak cells and the flips of one classifier are those of another one too.

By cell: the other classifier gets its own weakness table, with its own tests and its own drops on the same scoring
half, and is compared where the first is significantly weak. By picture: the share of the first one's flips that flip
the other too, beside the share expected if the two were independent. A share near that means different weaknesses; one
far above it means a shared weakness, or pictures that are hard, or wrong, for any classifier.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.canonical import as_json
from engine.probe.measures import drop_name
from engine.probe.pairs import Pairs
from engine.probe.weakness import Weakness, WeaknessCell, weakness
from engine.runfile.probe import ProbeConfig
from engine.sample import Json
from engine.statistics import UNDEFINED, Interval, Ratio


@dataclass(frozen=True, kw_only=True)
class SharedFlips:
    """The share of the first classifier's flips that flip the other, and the share expected if independent.

    Over the `n_edits` edits whose unedited picture (placebo, else source) both classify correctly; the
    first flips on `n_flips` of them.
    """

    n_edits: int
    n_flips: int
    share: Interval
    expected: Interval


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Another classifier's overall row, its cells where the first is significantly weak, and the shared flips."""

    drop: str
    overall: WeaknessCell | None
    cells: tuple[WeaknessCell, ...]
    shared: SharedFlips

    def to_json(self) -> dict[str, Json]:
        """Return the transfer as plain JSON; cells are in the first classifier's order."""
        return {
            "overall": self._row(self.overall) if self.overall else None,
            "num_cells": len(self.cells),
            "num_significant": sum(cell.significant for cell in self.cells),
            "cells": [self._row(cell) for cell in self.cells],
            "shared_flips": as_json(self.shared),
        }

    def _row(self, cell: WeaknessCell) -> dict[str, Json]:
        content = cell.to_json()
        drop: dict[str, Json] = {f"drop{end}": content[f"{self.drop}{end}"] for end in ("", "_low", "_high")}
        names = ("level", "class_name", "kind", "after", "n_sources", "accuracy_source", "accuracy_edit")
        tests = ("p_value", "q_value", "significant")
        return {name: content[name] for name in names} | drop | {name: content[name] for name in tests}


def transfer(first: Weakness, pairs: Pairs, other: Pairs, config: ProbeConfig, *, seed: int = 0) -> Transfer:
    """Return the other classifier's results in the first one's weak cells; both classified the same pictures."""
    table = weakness(other, config, seed=seed)
    known = {cell.key: cell for cell in table.cells}
    return Transfer(
        drop=drop_name(other),
        overall=table.overall,
        cells=tuple(known[cell.key] for cell in first.cells if cell.significant),
        shared=shared_flips(pairs, other, config, seed=seed),
    )


def shared_flips(pairs: Pairs, other: Pairs, config: ProbeConfig, *, seed: int = 0) -> SharedFlips:
    """Return the other classifier's flip rate where the first one flips, and its flip rate overall."""
    assert pairs.keys == other.keys  # both are read from the same shards, in the same order
    both_right = (pairs.right_unedited * other.right_unedited) > 0
    flips, others = ((1 - each.right_edit)[both_right] for each in (pairs, other))
    cluster = pairs.cluster[both_right]
    if not flips.any():
        return SharedFlips(n_edits=len(flips), n_flips=0, share=UNDEFINED, expected=UNDEFINED)
    bootstrap = pairs.bootstrap(config, seed)
    ratios: Sequence[Ratio] = (
        Ratio(numerator=flips * others, denominator=flips, prior="share"),
        Ratio(numerator=others, denominator=np.ones(len(flips)), prior="share"),
    )
    share, expected = bootstrap.intervals(cluster, np.zeros(len(flips), np.int64), 1, ratios)
    return SharedFlips(
        n_edits=len(flips), n_flips=int(flips.sum()), share=share.interval(0), expected=expected.interval(0)
    )
