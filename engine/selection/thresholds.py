"""The search for thresholds: of cuts between good and bad labels those that keep most good edits at a precision.

All combinations are tried of few cuts. Where there are more, or where checks vote, one threshold at a time is moved.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from engine.runfile.verifier import (
    RuleConfig,
    VerifierConfig,
    checks_of,
    loosest,
    scores_under,
    settings_of,
    with_settings,
)
from engine.selection.labels import Labelled
from engine.statistics import Floats

# Cuts tried for one threshold: 12 for each of four and consistency make 41,472 combinations.
MAX_CUTS = 12
MAX_COMBINATIONS = 50_000
# Rounds of the search of one threshold at a time; it ends before where none changes.
MAX_ROUNDS = 20
# With a lower recall, a precision is chance: it is that of the few edits with the highest scores.
MIN_RECALL = 0.1
# Where no cuts reach the precision: the least recall of the cuts among which the best precision is taken.
MIN_FALLBACK_RECALL = 0.5

Thresholds = dict[str, float | bool]
Mask = NDArray[np.bool_]


def tune(
    rows: Sequence[Labelled], config: VerifierConfig, precision: float, names: Sequence[str]
) -> tuple[Thresholds, bool]:
    """Return the values of the named thresholds that keep most good edits at a precision, and whether they reach it.

    Ties go to the higher precision, then to the fewest changes. Thresholds that are not named do not apply.
    """
    good = np.array([row.is_good for row in rows])
    weight = np.array([row.weight for row in rows])
    cuts = {name: _cuts(name, rows, good, config) for name in names}
    goal = _Goal(config=config, good=good, weight=weight, precision=precision, cuts=cuts)
    if config.rule == RuleConfig() and math.prod(map(len, cuts.values())) <= MAX_COMBINATIONS:
        return goal.of_all(rows)
    return goal.searched(rows)


@dataclass(frozen=True, kw_only=True)
class _Goal:
    """What is sought: of the `cuts` of each threshold those that keep most good edits at a precision."""

    config: VerifierConfig
    good: Mask
    weight: Floats
    precision: float
    cuts: Mapping[str, list[float | bool]]

    def of_all(self, rows: Sequence[Labelled]) -> tuple[Thresholds, bool]:
        """Return the best of all combinations, where an edit must pass every check."""
        masks = [_passes(name, rows, self.config, values) for name, values in self.cuts.items()]
        kept_good, kept_all = _sums(masks, self.weight * self.good, self.weight)
        changed = [np.array([self._changes(name, value) for value in values]) for name, values in self.cuts.items()]
        place, is_reached = self._best(kept_good, kept_all, reduce(np.add.outer, changed).ravel())
        places = np.unravel_index(place, [len(values) for values in self.cuts.values()])
        return self._at([int(each) for each in places]), is_reached

    def searched(self, rows: Sequence[Labelled]) -> tuple[Thresholds, bool]:
        """Return the best that is found by one threshold at a time, from the present ones and from equally strict ones.

        Where checks vote, one alone may change nothing: so the other start is the best of those at which all are
        equally strict.
        """
        now = settings_of(self.config)
        last = [len(values) - 1 for values in self.cuts.values()]
        levels = [[round(share * end) for end in last] for share in np.linspace(0, 1, MAX_CUTS)]
        starts = [
            levels[self._best_of(rows, levels)[0]],
            [values.index(now[name]) for name, values in self.cuts.items()],
        ]
        ends = [self._climbed(rows, start) for start in starts]
        place, is_reached = self._best_of(rows, ends)
        return self._at(ends[place]), is_reached

    def _climbed(self, rows: Sequence[Labelled], start: list[int]) -> list[int]:
        for _ in range(MAX_ROUNDS):
            before = list(start)
            for axis, values in enumerate(self.cuts.values()):
                options = [[*start[:axis], place, *start[axis + 1 :]] for place in range(len(values))]
                start = options[self._best_of(rows, options)[0]]
            if start == before:
                break
        return start

    def _best_of(self, rows: Sequence[Labelled], options: Sequence[list[int]]) -> tuple[int, bool]:
        """Return the place of the best option, by the verifier's own rule, and whether it reaches the precision."""
        opened = {name: loosest(name) for name in settings_of(self.config)}
        chosen = [self._at(option) for option in options]
        masks = [accepts(rows, with_settings(self.config, opened | values)) for values in chosen]
        kept_good = np.array([self.weight[mask & self.good].sum() for mask in masks])
        kept_all = np.array([self.weight[mask].sum() for mask in masks])
        changes = [sum(self._changes(name, value) for name, value in values.items()) for values in chosen]
        return self._best(kept_good, kept_all, np.array(changes))

    def _best(self, kept_good: Floats, kept_all: Floats, changes: NDArray[np.int64]) -> tuple[int, bool]:
        share = np.divide(kept_good, kept_all, out=np.zeros_like(kept_good), where=kept_all > 0)
        recall = kept_good / max(float(self.weight[self.good].sum()), 1e-12)
        reaches = (share >= self.precision - 1e-9) & (recall >= MIN_RECALL)
        if reaches.any():
            first, second, allowed = recall, share, reaches
        else:
            first, second, allowed = share, recall, recall >= min(MIN_FALLBACK_RECALL, float(recall.max()))
        # Rounded, since sums of the same weights in another order differ in the last digits.
        order = np.lexsort((changes, -second.round(9), -first.round(9), ~allowed))
        return int(order[0]), bool(reaches[order[0]])

    def _changes(self, name: str, value: float | bool) -> int:
        return int(value != settings_of(self.config)[name])

    def _at(self, places: Sequence[int]) -> Thresholds:
        return {name: values[place] for (name, values), place in zip(self.cuts.items(), places, strict=True)}


def accepts(rows: Sequence[Labelled], config: VerifierConfig) -> Mask:
    """Return a mask of the rows that the verifier's rule accepts, (num_rows,)."""
    text_changes = np.array([row.candidate.text_changes for row in rows], np.bool_)
    passed = {}
    for check in checks_of(config):
        values = _values(check.score, rows)
        passes = values > 0 if check.floor is True else values >= check.floor
        passed[check.score] = passes | ~text_changes if check.of_text else passes
    return rule_mask(passed, config.rule, len(rows))


def rule_mask(passed: Mapping[str, Mask], rule: RuleConfig, count: int) -> Mask:
    """Return a mask of what a rule accepts, given for each check which of the `count` edits pass it."""
    every = rule.every if rule.every is not None else [name for name in passed if name not in rule.of]
    accepted = np.logical_and.reduce([np.ones(count, np.bool_), *(passed[name] for name in every if name in passed)])
    votes = np.add.reduce([np.zeros(count, np.int64), *(passed[name] for name in rule.of if name in passed)])
    return np.asarray(accepted & (votes >= rule.at_least))


def _cuts(name: str, rows: Sequence[Labelled], good: Mask, config: VerifierConfig) -> list[float | bool]:
    """Return the values to try, loosest first. The loosest is the current one unless a good label needs a lower one.

    Above the loosest, only cuts between a bad label and the next good one can be optimal.
    """
    if loosest(name) is False:
        return [False, True]
    now = float(settings_of(config)[name])
    values = _smallest(name, rows, config)
    lowest_good = float(np.nanmin(values[good])) if np.isfinite(values[good]).any() else now
    least = now if now <= lowest_good else max(math.floor(lowest_good * 100) / 100, float(loosest(name)))
    order = np.argsort(values, kind="stable")
    pairs = [
        (float(values[low]), float(values[high]))
        for low, high in pairwise(order)
        if good[high] and not good[low] and values[low] < values[high] and values[high] > least
    ]
    between = sorted({cut for cut in (short_between(low, high) for low, high in pairs) if cut > least})
    if len(between) > MAX_CUTS - 2:
        between = [between[round(place)] for place in np.linspace(0, len(between) - 1, MAX_CUTS - 2)]
    return sorted({least, now, *between})


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


def _values(score: str, rows: Sequence[Labelled]) -> Floats:
    """Return a score of each row, NaN where it is undefined or was not asked, (num_rows,)."""
    return np.array([row.candidate.scores.get(score, math.nan) for row in rows])


def _smallest(name: str, rows: Sequence[Labelled], config: VerifierConfig) -> Floats:
    """Return the score that a threshold applies to, the smallest where it applies to several."""
    return np.asarray(np.min([_values(score, rows) for score in scores_under(name, config)], axis=0))


def _passes(name: str, rows: Sequence[Labelled], config: VerifierConfig, cuts: Sequence[float | bool]) -> Mask:
    """Return a mask of the rows that pass each cut, (num_cuts, num_rows)."""
    values = _smallest(name, rows, config)
    if loosest(name) is False:
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
