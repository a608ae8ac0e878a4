"""The confusion matrix of predictions, and the order of outputs that would fit it far better."""

import numpy as np
from numpy.typing import ArrayLike

from engine.evaluation.mapping import better_order

# The matrix of more would take gigabytes.
MAX_CLASSES = 2000


def wrong_order(labels: ArrayLike, predictions: ArrayLike, classes: tuple[str, ...]) -> str | None:
    """Return a line where another order of a classifier's outputs fits far better; both count classes from 0."""
    size = len(classes)
    if size > MAX_CLASSES:
        return None
    cells = np.asarray(labels, np.int64) * size + np.asarray(predictions, np.int64)
    found = better_order(np.bincount(cells, minlength=size * size).reshape(size, size))
    return None if found is None else found.describe(classes)
