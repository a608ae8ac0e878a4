"""Failure points: the smallest severity at which an edit flips the classifier, for runs with several severities.

An edit at its severities is one series. Its failure point is the smallest severity whose picture is misclassified; it
counts only where severity 0, the placebo (without one, the source), is classified correctly. A series that never fails
is right-censored at its largest accepted severity; to count it as a failure just beyond the scale would make grids of
mild severities look safe. Hence survival curves (Kaplan and Meier 1958), as the failure points of CNS-Bench (Dünkel et
al. 2025) but with censoring. A rejected severity is unobserved, so a failure there is dated to the next accepted one.

Curves are by kind, and by kind and value, in the order of their names and over all sources: there is no selection.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.probe.pairs import Pairs
from engine.runfile.probe import ProbeConfig
from engine.statistics import (
    NORMAL,
    UNDEFINED,
    Floats,
    Interval,
    Ints,
    Ratio,
    SourceBootstrap,
    wilson_interval,
)


@dataclass(frozen=True, kw_only=True)
class CurveStep:
    """One severity of a curve: series at risk, failures, survival, accuracy drop.

    The drop is accuracy at severity 0 minus accuracy here, over the `n_edits` accepted edits of this severity.
    """

    severity: float
    at_risk: int
    failed: int
    survival: Interval
    accuracy_drop: Interval
    n_edits: int


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The failure points of one kind of edit, or of one value of it.

    `n_series` were right at severity 0, `wrong_at_zero` were not and are in no survival. `median` is the smallest
    severity that at most half survive, with its interval (Brookmeyer and Crowley 1982); NaN: not reached.
    """

    kind: str
    after: str | None
    n_sources: int
    n_series: int
    wrong_at_zero: int
    never_failed: int
    median: Interval
    steps: tuple[CurveStep, ...]


def failure_points(pairs: Pairs, config: ProbeConfig, *, seed: int = 0) -> list[Curve]:
    """Return the curves of a run with several severities, none for a run with one.

    Curves of fewer than `min_sources` sources are left out.
    """
    if len(np.unique(pairs.severity)) < 2:
        return []
    bootstrap = pairs.bootstrap(config, seed)
    curves = []
    for kind, after, rows in _parts(pairs):
        if len(np.unique(pairs.cluster[rows])) >= config.min_sources:
            curves.append(_curve(pairs, rows, (kind, after), bootstrap))
    return curves


def survival(
    time: Floats, failed: Floats, cluster: Ints, times: Floats, confidence: float
) -> tuple[Ints, Ints, list[Interval]]:
    """Return at each of `times` the number at risk, the number of failures, and the survival.

    A series survives until `time`, where it either fails (`failed` 1) or is censored (0). The estimate is Kaplan and
    Meier's. Its log-log interval (Kalbfleisch and Prentice 1980) has Greenwood's variance summed by cluster first
    (Ying and Wei 1994), which is Greenwood's own where each cluster has one series. At 0 and 1, where that is
    undefined, the open end is Wilson's over the clusters still at risk.
    """
    numbers, member = np.unique(cluster, return_inverse=True)
    influence = np.zeros(len(numbers))
    alive, z, intervals = 1.0, NORMAL.inv_cdf(0.5 + confidence / 2), []
    risks, deaths = [], []
    for at in times:
        inside, event = time >= at, (time == at) & (failed > 0)
        risk, died = int(inside.sum()), int(event.sum())
        n = len(np.unique(cluster[inside]))
        if risk and died < risk:
            share = died / risk
            alive *= 1 - share
            influence += np.bincount(member, (event - inside * share) / (risk * (1 - share)), len(numbers))
        elif died:
            alive = 0.0
        risks.append(risk)
        deaths.append(died)
        intervals.append(_interval(alive, math.sqrt(float((influence**2).sum())), z, n, confidence))
    return np.array(risks, np.int64), np.array(deaths, np.int64), intervals


def median_severity(severities: Sequence[float], shares: Sequence[Interval]) -> Interval:
    """Return the smallest severity that at most half survive, and the same of the curve's lower and upper ends.

    NaN where a curve stays above one half: the median, or the end, is beyond the largest severity.
    """

    def reached(ends: Sequence[float]) -> float:
        return next((at for at, end in zip(severities, ends, strict=True) if end <= 0.5), math.nan)

    return Interval(
        value=reached([share.value for share in shares]),
        low=reached([share.low for share in shares]),
        high=reached([share.high for share in shares]),
    )


def _parts(pairs: Pairs) -> Iterator[tuple[str, str | None, Ints]]:
    """Yield each kind with its rows, then each of its values."""
    for kind, name in enumerate(pairs.kinds):
        rows = np.flatnonzero(pairs.kind == kind)
        yield name, None, rows
        for after in np.unique(pairs.after[rows]):
            yield name, pairs.afters[after], rows[pairs.after[rows] == after]


def _curve(pairs: Pairs, rows: Ints, name: tuple[str, str | None], bootstrap: SourceBootstrap) -> Curve:
    before = np.array([pairs.before[row] for row in rows], np.str_)
    _, before_code = np.unique(before, return_inverse=True)
    identity = np.stack([pairs.source[rows], before_code, pairs.after[rows]], axis=1)
    _, first, series = np.unique(identity, axis=0, return_index=True, return_inverse=True)
    severity, right = pairs.severity[rows], pairs.right_edit[rows]
    last, wrong_from = np.zeros(len(first)), np.full(len(first), np.inf)
    np.maximum.at(last, series, severity)
    np.minimum.at(wrong_from, series[right == 0], severity[right == 0])
    started = pairs.right_unedited[rows][first] > 0
    failed = np.isfinite(wrong_from)
    severities = np.unique(severity)
    at_risk, deaths, shares = survival(
        np.where(failed, wrong_from, last)[started],
        failed[started].astype(np.float64),
        pairs.cluster[rows][first][started],
        severities,
        bootstrap.confidence,
    )
    drops = _drops(pairs, rows, severities, bootstrap)
    return Curve(
        kind=name[0],
        after=name[1],
        n_sources=len(np.unique(pairs.source[rows])),
        n_series=int(started.sum()),
        wrong_at_zero=int((~started).sum()),
        never_failed=int((started & ~failed).sum()),
        median=median_severity(severities.tolist(), shares) if started.any() else UNDEFINED,
        steps=tuple(
            CurveStep(
                severity=float(at),
                at_risk=int(at_risk[index]),
                failed=int(deaths[index]),
                survival=shares[index],
                accuracy_drop=drops[index],
                n_edits=int((severity == at).sum()),
            )
            for index, at in enumerate(severities)
        ),
    )


def _drops(pairs: Pairs, rows: Ints, severities: Floats, bootstrap: SourceBootstrap) -> list[Interval]:
    cell = np.searchsorted(severities, pairs.severity[rows]).astype(np.int64)
    drop = pairs.right_unedited[rows] - pairs.right_edit[rows]
    ratio = Ratio(numerator=drop, denominator=np.ones(len(rows)), prior="difference")
    (found,) = bootstrap.intervals(pairs.cluster[rows], cell, len(severities), [ratio])
    return [found.interval(index) for index in range(len(severities))]


def _interval(alive: float, error: float, z: float, n: int, confidence: float) -> Interval:
    """Return the interval of a survival whose logarithm has this standard error, with `n` clusters at risk."""
    if not n:
        return UNDEFINED
    if alive in (0.0, 1.0):
        low, high = wilson_interval(round(alive) * n, n, confidence)
        return Interval(value=alive, low=low, high=high)
    spread = math.exp(z * error / -math.log(alive))
    return Interval(value=alive, low=alive**spread, high=alive ** (1 / spread))
