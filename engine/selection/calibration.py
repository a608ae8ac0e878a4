"""Calibration: verifier thresholds from labels, with their cross-validated precision and recall.

The thresholds are the loosest that reach a precision. Folds hold whole split keys, and each fold is scored by
thresholds chosen on the others; scored on the rows that chose them, thresholds look better than they are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import SelectionError
from engine.runfile.verifier import VerifierConfig, loosest, scores_under, settings_of, with_settings
from engine.sample import content_seed
from engine.selection.labels import Labelled
from engine.selection.thresholds import Mask, Thresholds, accepts, tune
from engine.statistics import Floats, Interval, wilson_interval

NUM_FOLDS = 5
# Fewer good or bad labels leave a fold without any.
MIN_EACH = 5


@dataclass(frozen=True, kw_only=True)
class DecisionScore:
    """Precision and recall of thresholds on labels; `bad_kept` is the share of bad edits that they accept."""

    precision: Interval
    recall: Interval
    bad_kept: float


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Thresholds chosen on all labels, whether they reach the precision there, and their cross-validated score."""

    thresholds: Thresholds
    is_reached: bool
    score: DecisionScore


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The score of the current thresholds, of each threshold tuned alone, and of all tuned together: the proposal."""

    now: DecisionScore
    alone: Mapping[str, Choice]
    together: Choice


def calibrate(rows: Sequence[Labelled], config: VerifierConfig, precision: float) -> Calibration:
    """Choose the thresholds that keep most good edits at a precision; SelectionError where labels are too few."""
    num_good = sum(row.is_good for row in rows)
    if num_good < MIN_EACH or len(rows) - num_good < MIN_EACH:
        raise SelectionError(
            f"{len(rows)} labels can be used, {num_good} good and {len(rows) - num_good} bad: at least {MIN_EACH} of "
            "each are needed, and about 200 in all; `counterforge show RUN --label` makes a page to label more"
        )
    folds = deal_folds(rows)
    counting = [name for name in settings_of(config) if scores_under(name, config)]
    names = tuple(sorted(counting, key=lambda name: loosest(name) is False))
    return Calibration(
        now=score(rows, accepts(rows, config)),
        alone={name: _choose(rows, folds, config, precision, (name,)) for name in names},
        together=_choose(rows, folds, config, precision, names),
    )


def deal_folds(rows: Sequence[Labelled]) -> NDArray[np.int64]:
    """Return the fold of each row: a split key is in one fold; split keys with a bad edit are spread evenly."""
    with_bad = {row.candidate.split_key for row in rows if not row.is_good}
    every = {row.candidate.split_key for row in rows}
    dealt = sorted(every, key=lambda key: (key in with_bad, content_seed(0, f"fold/{key}")))
    fold = {key: place % NUM_FOLDS for place, key in enumerate(dealt)}
    return np.array([fold[row.candidate.split_key] for row in rows], np.int64)


def score(rows: Sequence[Labelled], accepted: Mask) -> DecisionScore:
    """Return precision and recall of a decision on weighted rows, each with its Wilson interval.

    The effective sample size is over split keys (Kish 1965), since edits of one source are correlated.
    """
    good = np.array([row.is_good for row in rows])
    weight = np.array([row.weight for row in rows])
    _, cluster = np.unique([row.candidate.split_key for row in rows], return_inverse=True)
    bad_weight = float(weight[~good].sum())
    return DecisionScore(
        precision=_weighted_share(good[accepted], weight[accepted], cluster[accepted]),
        recall=_weighted_share(accepted[good], weight[good], cluster[good]),
        bad_kept=float(weight[accepted & ~good].sum()) / bad_weight if bad_weight else math.nan,
    )


def _choose(
    rows: Sequence[Labelled], folds: NDArray[np.int64], config: VerifierConfig, precision: float, names: Sequence[str]
) -> Choice:
    """Choose thresholds on all rows, and score the procedure by cross-validation."""
    accepted = np.zeros(len(rows), np.bool_)
    opened = {name: loosest(name) for name in settings_of(config)}
    for fold in range(NUM_FOLDS):
        training = [row for row, place in zip(rows, folds, strict=True) if place != fold]
        held_out = [row for row, place in zip(rows, folds, strict=True) if place == fold]
        if held_out:
            thresholds, _ = tune(training, config, precision, names)
            accepted[folds == fold] = accepts(held_out, with_settings(config, opened | thresholds))
    thresholds, is_reached = tune(rows, config, precision, names)
    return Choice(thresholds=thresholds, is_reached=is_reached, score=score(rows, accepted))


def _weighted_share(hit: Mask, weight: Floats, cluster: NDArray[np.int64]) -> Interval:
    """Return a weighted share with a Wilson interval over its effective number of split keys; NaN for no rows."""
    if not len(weight):
        return Interval(value=math.nan, low=0.0, high=1.0)
    by_cluster = np.bincount(cluster, weight)
    share = float(weight[hit].sum() / weight.sum()) if not hit.all() else 1.0
    effective = float(by_cluster.sum() ** 2 / (by_cluster**2).sum())
    low, high = wilson_interval(share * effective, effective)
    return Interval(value=share, low=low, high=high)
