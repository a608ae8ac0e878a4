"""The bandit of `rounds`: what the next edit of each cell is expected to gain, and the share of the budget it gets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.runfile.rounds import RoundsConfig

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# A cell counts as much as its parent once it has so many observations of its own.
PRIOR_STRENGTH = 8.0
NUM_DRAWS = 1000
TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Beliefs:
    """Hold a Beta distribution for each cell: `hits` and `misses` (num_cells,), the prior's share included."""

    hits: Floats
    misses: Floats

    @property
    def mean(self) -> Floats:
        """Return the expected value of each cell."""
        return self.hits / (self.hits + self.misses)

    def draw(self, cells: Ints, rng: np.random.Generator) -> Floats:
        """Return NUM_DRAWS values for each of some cells, (NUM_DRAWS, len(cells))."""
        return rng.beta(self.hits[cells], self.misses[cells], (NUM_DRAWS, len(cells)))


def beliefs(hits: Floats, counts: Ints, levels: Sequence[Ints]) -> Beliefs:
    """Return what is believed of each cell from its hits out of its counts, shrunk towards the groups it is in.

    `levels` are arrays (num_cells,) of nested group numbers, the coarsest first. A group's mean is the prior of the
    groups in it, worth PRIOR_STRENGTH observations, and that of the last groups the prior of the cells.
    """
    mean = np.full(len(hits), (hits.sum() + 1) / (counts.sum() + 2))
    for group in levels:
        found = np.bincount(group, hits)[group], np.bincount(group, counts)[group]
        mean = (found[0] + PRIOR_STRENGTH * mean) / (found[1] + PRIOR_STRENGTH)
    prior = PRIOR_STRENGTH * mean
    return Beliefs(hits=hits + prior, misses=counts - hits + PRIOR_STRENGTH - prior)


def promise(weakness: Beliefs, accepted: Beliefs, cells: Ints, budget: int, seed: int) -> Floats:
    """Return the share of a source's edits that each of some cells would get, together 1.

    Thompson sampling: draw by draw each cell has a gain, its weakness times its accept rate as both may be, and a
    source gives its edits to the `budget` cells that gain most, in proportion to that. What is little known is among
    them now and then, so it gets known.
    """
    rng = np.random.default_rng(seed)
    gain = weakness.draw(cells, rng) * accepted.draw(cells, rng)
    taken = min(budget, len(cells))
    best = np.argpartition(-gain, taken - 1, axis=1)[:, :taken]
    given = np.zeros_like(gain)
    np.put_along_axis(given, best, np.take_along_axis(gain, best, axis=1), axis=1)
    # Half a draw for each: no cell is ever out of the question.
    won = (given / given.sum(axis=1, keepdims=True)).sum(axis=0) + 0.5
    return np.asarray(won / won.sum(), np.float64)


def within_limits(shares: Floats, kinds: Ints, capped: Bools, config: RoundsConfig) -> tuple[Floats, Bools, Bools]:
    """Return the shares with floor and cap applied, and which cells were lifted and which held down.

    `kinds` numbers the kind of each cell; `capped` tells the cells that the cap is for, and each kind has others too.
    What a capped cell may not have goes to the rest of its kind.
    """
    totals, lifted = _lift(np.bincount(kinds, shares).astype(np.float64), config.floor)
    result, held = np.zeros_like(shares), np.zeros(len(shares), np.bool_)
    for kind, total in enumerate(totals):
        cells = np.flatnonzero(kinds == kind)
        result[cells], held[cells] = _press(shares[cells], float(total), capped[cells], config.cap)
    return result, lifted[kinds], held


def _lift(totals: Floats, floor: float) -> tuple[Floats, Bools]:
    """Return totals that add up to 1, none below the floor, and which were lifted to it."""
    lifted = np.zeros(len(totals), np.bool_)
    while not lifted.all():
        rest = totals / totals[~lifted].sum() * (1 - floor * lifted.sum())
        scaled = np.where(lifted, floor, rest)
        low = (scaled < floor - TOLERANCE) & ~lifted
        if not low.any():
            return scaled, lifted
        lifted |= low
    return np.full(len(totals), 1 / len(totals)), lifted


def _press(shares: Floats, total: float, capped: Bools, cap: float) -> tuple[Floats, Bools]:
    """Return the shares scaled to a total, none of those that are capped above the cap, and which were held down."""
    held = np.zeros(len(shares), np.bool_)
    while True:
        rest = shares / shares[~held].sum() * (total - cap * held.sum())
        scaled = np.where(held, cap, rest)
        high = (scaled > cap + TOLERANCE) & capped & ~held
        if not high.any():
            return scaled, held
        held |= high
