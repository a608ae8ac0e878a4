"""Tests that stay valid however often one looks: e-processes by betting, and their false discovery rate.

A p-value holds for one look. An e-process starts at 1 and is, under the null hypothesis, at most 1 on average at any
time that one stops, so that it ever reaches 1 / alpha with a probability of at most alpha (Ville's inequality). Ramdas,
Gruenwald, Vovk and Shafer 2023, "Game-theoretic statistics and safe anytime-valid inference".
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.statistics import Floats

NUM_BETS = 40
# e^700 is the largest that a float holds.
MAX_LOG = 700.0


def drop_e_process(drops: Floats, min_drop: float = 0.0) -> Floats:
    """Return the e-value after each source (num_sources,) of the null "edits cost at most `min_drop`".

    `drops` are the mean drops of independent sources in [-1, 1], in the order in which they came. Each bet is a share
    of the capital, which a drop of d multiplies by 1 + bet * (d - min_drop); the e-value is the mean over an even grid
    of bets (Waudby-Smith and Ramdas 2024, section 4). For sources with one edit and a `min_drop` of 0 it bets that the
    coin of the discordant pairs is not fair: a Beta-binomial mixture. What edits come next may depend on all before.
    """
    bets = (np.arange(NUM_BETS) + 0.5) / NUM_BETS / (1 + min_drop)
    logs = np.log1p(bets * (drops[:, None] - min_drop)).cumsum(axis=0)
    peak = logs.max(axis=1)
    return np.asarray(np.exp(np.minimum(peak, MAX_LOG)) * np.exp(logs - peak[:, None]).mean(axis=1), np.float64)


def e_benjamini_hochberg(e_values: Sequence[float], alpha: float) -> NDArray[np.bool_]:
    """Return the discoveries (num_tests,) at a false discovery rate of `alpha`, whatever the tests' dependence.

    The k largest e-values are discoveries where the k-th is at least num_tests / (alpha * k): e-BH, Wang and Ramdas
    2022.
    """
    e = np.asarray(e_values, np.float64)
    ordered = np.sort(e)[::-1]
    passes = np.flatnonzero(ordered * alpha * np.arange(1, len(e) + 1) >= len(e))
    return e >= ordered[passes[-1]] if len(passes) else np.zeros(len(e), np.bool_)
