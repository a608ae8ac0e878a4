"""Calibration: verifier thresholds from labels, with their cross-validated precision and recall.

The thresholds are the loosest that reach a precision, from a grid of cuts between good and bad labels. Folds hold whole
split keys, and each fold is scored by thresholds chosen on the others; scored on the rows that chose them, thresholds
look better than they are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from engine.errors import SelectionError
from engine.runfile.verifier import CHECKS, THRESHOLDS, VerifierConfig, loosest, thresholds_asked
from engine.sample import content_seed
from engine.selection.labels import Labelled
from engine.statistics import Floats, Interval, wilson_interval
from engine.verdicts.rule import verdict_reasons

NUM_FOLDS = 5
# Fewer good or bad labels leave a fold without any.
MIN_EACH = 5
# Cuts tried for one threshold: 12 for each of four and consistency make 41,472 combinations.
MAX_CUTS = 12
# With a lower recall, a precision is chance: it is that of the few edits with the highest scores.
MIN_RECALL = 0.1
# Where no cuts reach the precision: the least recall of the cuts among which the best precision is taken.
MIN_FALLBACK_RECALL = 0.5
# The values that pass every finite score, numbers first.
OPEN = {name: loosest(name) for name in sorted(THRESHOLDS, key=lambda name: loosest(name) is False)}

Thresholds = dict[str, float | bool]
Mask = NDArray[np.bool_]


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
    names = tuple(name for name in OPEN if name in thresholds_asked(config))
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


def accepts(rows: Sequence[Labelled], config: VerifierConfig) -> Mask:
    """Return a mask of the rows that the verifier's rule accepts."""
    every = [row.candidate for row in rows]
    return np.array([not verdict_reasons(one.scores, config, text_changes=one.text_changes) for one in every])


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


def tune(
    rows: Sequence[Labelled], config: VerifierConfig, precision: float, names: Sequence[str]
) -> tuple[Thresholds, bool]:
    """Return the values of the named thresholds that keep most good edits at a precision, and whether they reach it.

    Ties go to the higher precision, then to the fewest changes. Thresholds that are not named do not apply.
    """
    good = np.array([row.is_good for row in rows])
    weight = np.array([row.weight for row in rows])
    cuts = {name: _cuts(name, rows, good, config) for name in names}
    masks = [_passes(name, rows, values) for name, values in cuts.items()]
    kept_good, kept_all = _sums(masks, weight * good, weight)
    share = np.divide(kept_good, kept_all, out=np.zeros_like(kept_good), where=kept_all > 0)
    recall = kept_good / max(float(weight[good].sum()), 1e-12)
    changed = [np.array([value != getattr(config, name) for value in values], int) for name, values in cuts.items()]
    changes: NDArray[np.int64] = reduce(np.add.outer, changed).ravel()
    reaches = (share >= precision - 1e-9) & (recall >= MIN_RECALL)
    if reaches.any():
        first, second, allowed = recall, share, reaches
    else:
        first, second, allowed = share, recall, recall >= min(MIN_FALLBACK_RECALL, float(recall.max()))
    # Rounded, since sums of the same weights in another order differ in the last digits.
    order = np.lexsort((changes, -second.round(9), -first.round(9), ~allowed))
    places = np.unravel_index(int(order[0]), [len(values) for values in cuts.values()])
    chosen = {name: values[int(place)] for (name, values), place in zip(cuts.items(), places, strict=True)}
    return chosen, bool(reaches[order[0]])


def _choose(
    rows: Sequence[Labelled], folds: NDArray[np.int64], config: VerifierConfig, precision: float, names: Sequence[str]
) -> Choice:
    """Choose thresholds on all rows, and score the procedure by cross-validation."""
    accepted = np.zeros(len(rows), np.bool_)
    open_values = {name: OPEN[name] for name in thresholds_asked(config)}
    for fold in range(NUM_FOLDS):
        training = [row for row, place in zip(rows, folds, strict=True) if place != fold]
        held_out = [row for row, place in zip(rows, folds, strict=True) if place == fold]
        if held_out:
            thresholds, _ = tune(training, config, precision, names)
            accepted[folds == fold] = accepts(held_out, config.model_copy(update=open_values | thresholds))
    thresholds, is_reached = tune(rows, config, precision, names)
    return Choice(thresholds=thresholds, is_reached=is_reached, score=score(rows, accepted))


def _cuts(name: str, rows: Sequence[Labelled], good: Mask, config: VerifierConfig) -> list[float | bool]:
    """Return the values to try, loosest first. The loosest is the current one unless a good label needs a lower one.

    Above the loosest, only cuts between a bad label and the next good one can be optimal.
    """
    if OPEN[name] is False:
        return [False, True]
    now = float(getattr(config, name))
    values = _values(name, rows)
    lowest_good = float(values[good].min()) if good.any() else now
    loosest = now if now <= lowest_good else max(math.floor(lowest_good * 100) / 100, float(OPEN[name]))
    order = np.argsort(values, kind="stable")
    pairs = [
        (float(values[low]), float(values[high]))
        for low, high in pairwise(order)
        if good[high] and not good[low] and values[low] < values[high] and values[high] > loosest
    ]
    between = sorted({cut for cut in (short_between(low, high) for low, high in pairs) if cut > loosest})
    if len(between) > MAX_CUTS - 2:
        between = [between[round(place)] for place in np.linspace(0, len(between) - 1, MAX_CUTS - 2)]
    return sorted({loosest, now, *between})


def short_between(low: float, high: float) -> float:
    """Return the number with the fewest decimals in (low, high], the middle one where there are several."""
    for digits in range(1, 17):
        scale = 10.0**digits
        first, last = math.floor(low * scale) + 1, math.floor(high * scale)
        if first <= last:
            found = round((first + last) // 2 / scale, digits)
            if low < found <= high:
                return found
    return high


def _values(name: str, rows: Sequence[Labelled]) -> Floats:
    """Return the score that a threshold applies to, the smallest where it applies to several."""
    scores = [check.score for check in CHECKS if check.threshold == name]
    return np.array([min(row.candidate.scores[score] for score in scores) for row in rows])


def _passes(name: str, rows: Sequence[Labelled], cuts: Sequence[float | bool]) -> Mask:
    """Return a mask of the rows that pass each cut, (num_cuts, num_rows)."""
    values = _values(name, rows)
    if OPEN[name] is False:
        return np.array([(values > 0) | (not is_asked) for is_asked in cuts])
    return np.array([values >= cut for cut in cuts])


def _sums(masks: Sequence[Mask], good_weight: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Return the weight of good rows and of all rows that pass, for every combination of cuts, last name fastest."""
    rest = np.ones((1, len(weight)), np.bool_)
    for mask in masks[1:]:
        rest = (rest[:, None, :] & mask[None, :, :]).reshape(-1, len(weight))
    kept = [rest[:, one] @ np.stack([good_weight[one], weight[one]], axis=1) for one in masks[0]]
    both = np.concatenate(kept)
    return both[:, 0], both[:, 1]


def _weighted_share(hit: Mask, weight: Floats, cluster: NDArray[np.int64]) -> Interval:
    """Return a weighted share with a Wilson interval over its effective number of split keys; NaN for no rows."""
    if not len(weight):
        return Interval(value=math.nan, low=0.0, high=1.0)
    by_cluster = np.bincount(cluster, weight)
    share = float(weight[hit].sum() / weight.sum()) if not hit.all() else 1.0
    effective = float(by_cluster.sum() ** 2 / (by_cluster**2).sum())
    low, high = wilson_interval(share * effective, effective)
    return Interval(value=share, low=low, high=high)
