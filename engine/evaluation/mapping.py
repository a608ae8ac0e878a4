"""The order of a classifier's outputs: would another one fit its confusion matrix far better?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.wording import NAMES_SHOWN, percent

Counts = NDArray[np.int64]
# Another order must be right on this much more of the images, and by so many standard errors.
MIN_GAIN = 0.1
STANDARD_ERRORS = 3.0


@dataclass(frozen=True, kw_only=True)
class BetterOrder:
    """An order of outputs that fits far better: output `columns[i]` is class i. Shares are of all counted images."""

    columns: tuple[int, ...]
    accuracy: float
    accuracy_in_order: float

    def describe(self, classes: Sequence[str]) -> str:
        """Return one line: both accuracies, and the outputs that other classes fit."""
        moved = sorted((column, classes[index]) for index, column in enumerate(self.columns) if index != column)
        shown = ", ".join(f"{column} as {name!r}" for column, name in moved[:NAMES_SHOWN])
        more = f" and {len(moved) - NAMES_SHOWN} more" if len(moved) > NAMES_SHOWN else ""
        return (
            f"the classifier's outputs look to be in another order than the run's classes: {percent(self.accuracy)} "
            f"are right as they are taken, {percent(self.accuracy_in_order)} with output {shown}{more}"
        )


def better_order(confusion: Counts) -> BetterOrder | None:
    """Return the order of outputs that fits a confusion matrix best, None unless it is clearly better.

    `confusion` (num_classes, num_classes) counts the images of class i (row) with output j (column) the highest. An
    order that is chosen by the counts that judge it always looks better: each half of the images, drawn at random, is
    judged by the order that the other half chose. A gain of MIN_GAIN at STANDARD_ERRORS (McNemar) is clear.
    """
    first = np.random.default_rng(0).binomial(confusion, 0.5)
    gained = lost = 0
    for judged, chosen in ((first, best_order(confusion - first)), (confusion - first, best_order(first))):
        right, before = _right(judged, chosen), judged.diagonal()
        changed = chosen != np.arange(len(chosen))
        gained += int(right[changed].sum())
        lost += int(before[changed].sum())
    total, columns = int(confusion.sum()), best_order(confusion)
    if gained - lost <= max(MIN_GAIN * total, STANDARD_ERRORS * (gained + lost) ** 0.5):
        return None
    return BetterOrder(
        columns=tuple(columns.tolist()),
        accuracy=float(confusion.diagonal().sum()) / total,
        accuracy_in_order=float(_right(confusion, columns).sum()) / total,
    )


def best_order(gains: Counts) -> NDArray[np.intp]:
    """Return for each row its column (n,), each column once, with the largest sum; ties keep the row's own.

    The Hungarian algorithm with shortest augmenting paths, O(n^3): Jonker and Volgenant 1987.
    """
    size = len(gains)
    # Every count outweighs all ties.
    costs = -gains.astype(np.float64) * (size + 1) - np.eye(size)
    rows, columns = np.zeros(size + 1), np.zeros(size + 1)
    owner = np.zeros(size + 1, np.intp)  # of each column, its row from 1 on; 0 is none
    for row in range(1, size + 1):
        owner[0], column = row, 0
        slack, before = np.full(size + 1, np.inf), np.zeros(size + 1, np.intp)
        is_done = np.zeros(size + 1, bool)
        while owner[column]:
            is_done[column] = True
            here = owner[column]
            reduced = np.concatenate([[np.inf], costs[here - 1] - rows[here] - columns[1:]])
            closer = ~is_done & (reduced < slack)
            slack[closer], before[closer] = reduced[closer], column
            column = int(np.where(is_done, np.inf, slack)[1:].argmin()) + 1
            step = slack[column]
            rows[owner[is_done]] += step
            columns[is_done] -= step
            slack[~is_done] -= step
        while column:
            owner[column] = owner[before[column]]
            column = int(before[column])
    found = np.empty(size, np.intp)
    found[owner[1:] - 1] = np.arange(size)
    return found


def _right(confusion: Counts, columns: NDArray[np.intp]) -> Counts:
    """Return how many images of each class are right where output `columns[i]` is class i."""
    return np.asarray(confusion[np.arange(len(confusion)), columns])
