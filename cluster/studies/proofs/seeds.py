"""Figures over seeds, and of other samples with an interval or a range."""

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt
from statistics import fmean, median, stdev
from typing import Literal

from engine.figures.figures import Figure
from engine.statistics import Interval, student_quantile


def mean_over_seeds(
    name: str, values: Sequence[float], target: float | None = None, better: Literal["higher", "lower"] = "higher"
) -> Figure:
    """Return the mean over seeds with Student's 95 % interval, None for one seed."""
    mean, n = fmean(values), len(values)
    figure = Figure(name=name, value=mean, target=target, better=None if target is None else better, n=n)
    if n == 1:
        return figure
    half = student_quantile(0.975, n - 1) * stdev(values) / sqrt(n)
    return replace(figure, low=mean - half, high=mean + half)


def of_interval(name: str, interval: Interval, n: int | None = None, target: float | None = None) -> Figure:
    """Return an estimate with its interval; `target` is its lower limit."""
    better: Literal["higher"] | None = None if target is None else "higher"
    value, low, high = interval.value, interval.low, interval.high
    return Figure(name=name, value=value, low=low, high=high, target=target, better=better, n=n)


def with_range(name: str, values: Sequence[float]) -> Figure:
    """Return the median of values with the lowest and the highest."""
    return Figure(name=name, value=median(values), low=min(values), high=max(values), n=len(values))
