"""Figures over seeds."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Literal

from engine.figures.figures import Figure
from engine.statistics import student_quantile


def mean_over_seeds(
    name: str, values: Sequence[float], target: float | None = None, better: Literal["higher", "lower"] = "higher"
) -> Figure:
    """Return the mean with Student's interval: the seeds are the sample, not their images."""
    mean, low, high = fmean(values), None, None
    if len(values) > 1:
        half = student_quantile(0.975, len(values) - 1) * stdev(values) / sqrt(len(values))
        low, high = mean - half, mean + half
    return Figure(
        name=name,
        value=mean,
        low=low,
        high=high,
        target=target,
        better=None if target is None else better,
        n=len(values),
    )
