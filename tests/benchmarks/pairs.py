"""Two arms against each other in one run: rounds of A-B-B-A, and the median of their ratios."""

import statistics
import time
from collections.abc import Callable
from typing import Literal

import psutil

from engine.figures.figures import Figure

NUM_ROUNDS = 7


def ratio_figure(
    name: str,
    arm: Callable[[], object],
    against: Callable[[], object],
    target: float | None = None,
    *,
    better: Literal["higher", "lower"] = "higher",
    per: tuple[float, float] = (1.0, 1.0),
    num_rounds: int = NUM_ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> Figure:
    """Return how many times the rate of `against` the rate of `arm` is; p10 and p90 of several rounds as low and high.

    Each round is A-B-B-A, so that a drift of the machine falls on both. `per` are the units of work that one call of
    each does. Both are called once before, for what is paid once. With `better` "lower" it is the ratio of times.
    """
    arm()
    against()
    ratios = []
    for _ in range(num_rounds):
        seconds = [timed(call, clock) for call in (arm, against, against, arm)]
        faster = (seconds[1] + seconds[2]) / per[1] / ((seconds[0] + seconds[3]) / per[0])
        ratios.append(faster if better == "higher" else 1 / faster)
    low, high = percentiles(ratios) if num_rounds > 1 else (None, None)
    return Figure(
        name=name, value=statistics.median(ratios), low=low, high=high, target=target,
        better=None if target is None else better, n=num_rounds, unit="times",
    )  # fmt: skip


def percentiles(values: list[float]) -> tuple[float, float]:
    """Return the 10th and the 90th percentile."""
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return cuts[0], cuts[-1]


def core_seconds() -> float:
    """Return the seconds that all the cores of the machine have worked, for whomever; Ray's workers are nice."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait)


def timed(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds that a call takes."""
    start = clock()
    call()
    return clock() - start
