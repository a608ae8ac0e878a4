"""Figures over seeds, and of other samples with an interval or a range."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, median, stdev
from typing import Literal

from engine.figures.figures import Figure
from engine.statistics import Interval, student_quantile


def mean_over_seeds(
    name: str, values: Sequence[float], target: float | None = None, better: Literal["higher", "lower"] = "higher"
) -> Figure:
    """Return the mean over seeds with Student's 95 % interval, None for one seed."""
    mean, low, high = fmean(values), None, None
    if len(values) > 1:
        half = student_quantile(0.975, len(values) - 1) * stdev(values) / sqrt(len(values))
        low, high = mean - half, mean + half
    side = None if target is None else better
    return Figure(name=name, value=mean, low=low, high=high, target=target, better=side, n=len(values))


def of_interval(name: str, interval: Interval, n: int | None = None, target: float | None = None) -> Figure:
    """Return an estimate with its interval; `target` is its lower limit."""
    better: Literal["higher"] | None = None if target is None else "higher"
    value, low, high = interval.value, interval.low, interval.high
    return Figure(name=name, value=value, low=low, high=high, target=target, better=better, n=n)


def with_range(name: str, values: Sequence[float]) -> Figure:
    """Return the median of values with the lowest and the highest."""
    return Figure(name=name, value=median(values), low=min(values), high=max(values), n=len(values))
