"""The bandit of `rounds`: Beta posteriors by cell, Thompson sampling of each cell's budget share, floor and cap."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.runfile.run import RoundsConfig
from engine.statistics import Floats, Ints

Bools = NDArray[np.bool_]

# Pseudo-counts of a prior: a cell with so many observations counts as much as its parent group.
PRIOR_STRENGTH = 8.0
# Of a prior: a Beta distribution with a mean of 0 has no draws.
LEAST_MEAN = 0.01
NUM_DRAWS = 1000
TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class BetaPosterior:
    """Beta distribution of each cell: `alpha` and `beta` (num_cells,), pseudo-counts of the prior included."""

    alpha: Floats
    beta: Floats

    @property
    def mean(self) -> Floats:
        """Return the posterior mean of each cell, (num_cells,)."""
        return self.alpha / (self.alpha + self.beta)

    def sample(self, cells: Ints, rng: np.random.Generator) -> Floats:
        """Return NUM_DRAWS samples of each of these cells, (NUM_DRAWS, len(cells))."""
        return rng.beta(self.alpha[cells], self.beta[cells], (NUM_DRAWS, len(cells)))


def crossed_posterior(successes: Floats, trials: Ints, kinds: Ints, groupings: Sequence[Ints]) -> BetaPosterior:
    """Return the Beta posterior of each cell, shrunk towards what its kind and its groups of each grouping show.

    `kinds` and the `groupings` within kinds, by class and by value, say, number each cell's group, (num_cells,). A
    cell's prior mean is its kind's, plus by how much each of its groups differs from the kind: a value that misleads in
    every class is found with few edits of each. All means are shrunk by PRIOR_STRENGTH observations of what they are
    part of, and the prior of a cell is worth as many.
    """

    def shrunk(group: Ints, towards: Floats | float) -> Floats:
        found = np.bincount(group, successes)[group], np.bincount(group, trials)[group]
        return np.asarray((found[0] + PRIOR_STRENGTH * towards) / (found[1] + PRIOR_STRENGTH), np.float64)

    of_kind = shrunk(kinds, (successes.sum() + 1) / (trials.sum() + 2))
    effects = [shrunk(group, of_kind) - of_kind for group in groupings]
    # A sum of effects can leave the range of a share.
    prior = PRIOR_STRENGTH * np.clip(of_kind + sum(effects), LEAST_MEAN, 1 - LEAST_MEAN)
    return BetaPosterior(alpha=successes + prior, beta=trials - successes + PRIOR_STRENGTH - prior)


def thompson_shares(weakness: BetaPosterior, accepted: BetaPosterior, cells: Ints, budget: int, seed: int) -> Floats:
    """Return the budget share of each of these cells by Thompson sampling; they sum to 1.

    Each draw samples weakness and accept rate from their posteriors and gives the edits of one source to the `budget`
    cells with the largest product, in proportion to it. Sampling, not the mean, keeps uncertain cells explored.
    """
    rng = np.random.default_rng(seed)
    gain = weakness.sample(cells, rng) * accepted.sample(cells, rng)
    num_best = min(budget, len(cells))
    best = np.argpartition(-gain, num_best - 1, axis=1)[:, :num_best]
    given = np.zeros_like(gain)
    np.put_along_axis(given, best, np.take_along_axis(gain, best, axis=1), axis=1)
    # 0.5 pseudo-draws for each, so that no cell gets probability 0.
    won = (given / given.sum(axis=1, keepdims=True)).sum(axis=0) + 0.5
    return np.asarray(won / won.sum(), np.float64)


def within_limits(shares: Floats, kinds: Ints, capped: Bools, config: RoundsConfig) -> tuple[Floats, Bools, Bools]:
    """Return the shares with floor and cap applied, which cells' kinds are at the floor, and which cells at the cap.

    The floor is for the total of a kind. `kinds` numbers the kind of each cell. `capped` marks the cells that the cap
    is for; each kind has others, which get what exceeds the cap.
    """
    totals = np.bincount(kinds, shares).astype(np.float64)
    totals, at_floor = _water_fill(totals, 1.0, config.floor, np.ones(len(totals), np.bool_), side=-1)
    result, at_cap = np.zeros_like(shares), np.zeros(len(shares), np.bool_)
    for kind, total in enumerate(totals):
        cells = np.flatnonzero(kinds == kind)
        result[cells], at_cap[cells] = _water_fill(shares[cells], float(total), config.cap, capped[cells], side=1)
    return result, at_floor[kinds], at_cap


def _water_fill(shares: Floats, total: float, bound: float, limited: Bools, *, side: int) -> tuple[Floats, Bools]:
    """Scale shares to a sum, put those that violate the bound at it, and scale the rest again until none violates it.

    The bound is for the `limited` shares: the largest one for `side` 1, the smallest one for -1. Where all would be at
    the bound they are equal. Returns the shares and which of them are at the bound.
    """
    bounded = np.zeros(len(shares), np.bool_)
    while not bounded.all():
        rest = shares / shares[~bounded].sum() * (total - bound * bounded.sum())
        scaled = np.where(bounded, bound, rest)
        found = (side * (scaled - bound) > TOLERANCE) & limited & ~bounded
        if not found.any():
            return scaled, bounded
        bounded |= found
    return np.full(len(shares), total / len(shares)), bounded
