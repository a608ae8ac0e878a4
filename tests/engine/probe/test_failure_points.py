"""Failure points: the mildest severity that flips, censored where none does, with intervals that hold the truth."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest

from engine.canonical import as_json
from engine.probe.failure_points import Curve, failure_points, median_severity, survival
from engine.probe.pairs import read_pairs
from engine.runfile.probe import ProbeConfig
from engine.statistics import Interval

CONFIG = ProbeConfig(callable="tests:nothing", num_bootstraps=200, min_sources=2)
SEVERITIES = (0.25, 0.5, 0.75, 1.0)
TIMES = np.array(SEVERITIES)


def test_a_failure_point_is_the_mildest_severity_that_flips() -> None:
    """a fails from 0.5 on, b at 0.25 and is right again later: its failure point stays. c and d never fail."""
    answers = {"a": "1000", "b": "0111", "c": "1111", "d": "1111"}
    (curve, value) = _curves([row for key, right in answers.items() for row in _series(key, right)])
    assert (curve.kind, curve.after, value.after) == ("background", None, "snow")
    assert [(step.at_risk, step.failed, step.survival.value) for step in curve.steps] == [
        (4, 1, 0.75),
        (3, 1, 0.5),
        (2, 0, 0.5),
        (2, 0, 0.5),
    ]
    assert (curve.median.value, curve.never_failed, curve.n_series) == (0.5, 2, 4)
    assert [step.accuracy_drop.value for step in curve.steps] == [0.25, 0.25, 0.25, 0.25]


def test_a_series_that_never_fails_is_censored_at_its_largest_accepted_severity() -> None:
    """c was seen up to 0.5 only, and right there: it is no survivor of 0.75 and 1."""
    rows = [*_series("a", "1101"), *_series("b", "1110"), *_series("c", "11--"), *_series("d", "1111")]
    curve = _curves(rows)[0]
    assert [step.at_risk for step in curve.steps] == [4, 4, 3, 2]
    assert [step.survival.value for step in curve.steps] == pytest.approx([1, 1, 2 / 3, 1 / 3])
    assert [step.n_edits for step in curve.steps] == [4, 4, 3, 3]


def test_what_is_wrong_before_any_edit_has_no_failure_point() -> None:
    """The placebo decides where there is one: b's source is right and its placebo wrong, c has no placebo."""
    rows = [*_series("a", "1110"), *_series("b", "0000", placebo=False), *_series("c", "1111", placebo=None)]
    curve = _curves(rows)[0]
    assert (curve.n_series, curve.wrong_at_zero, curve.n_sources) == (2, 1, 3)
    assert [step.failed for step in curve.steps] == [0, 0, 0, 1]
    # Accuracy counts b too: it was wrong before, it is wrong after.
    assert curve.steps[0].accuracy_drop.value == 0


def test_a_median_that_is_not_reached_is_null() -> None:
    rows = [row for number in range(8) for row in _series(f"s{number}", "1111")]
    content = json.loads(json.dumps(as_json(_curves(rows)[0]), allow_nan=False))
    assert (content["median"], content["never_failed"]) == (None, 8)
    assert 0.6 < content["steps"][-1]["survival_low"] < content["steps"][-1]["survival"] == 1


def test_one_severity_makes_no_curve_and_few_sources_none() -> None:
    assert _curves([row for row in _series("a", "1111") if row["edit_severity"] in (None, 1.0)]) == []
    config = CONFIG.model_copy(update={"min_sources": 10})
    rows = [row for number in range(8) for row in _series(f"s{number}", "1110")]
    assert failure_points(read_pairs(pa.Table.from_pylist(rows)), config) == []


def test_variances_are_greenwoods_where_each_source_has_one_series() -> None:
    time, failed = np.array([0.25, 0.5, 0.5, 0.75, 0.75, 1.0, 1.0, 1.0]), np.array([1, 1, 0, 1, 0, 1, 0, 0.0])
    at_risk, deaths, shares = survival(time, failed, np.arange(8), TIMES, 0.95)
    assert (list(at_risk), list(deaths)) == ([8, 7, 5, 3], [1, 1, 1, 1])
    variance = np.cumsum(deaths / (at_risk * (at_risk - deaths)))
    for share, greenwood in zip(shares, variance, strict=True):
        spread = math.exp(1.959964 * math.sqrt(greenwood) / abs(math.log(share.value)))
        assert (share.low, share.high) == pytest.approx((share.value**spread, share.value ** (1 / spread)))


def test_ten_copies_of_a_series_bring_no_certainty() -> None:
    generator = np.random.default_rng(0)
    time, failed = generator.choice(TIMES, 20), generator.integers(0, 2, 20).astype(float)
    once = survival(time, failed, np.arange(20), TIMES, 0.95)[2]
    copied = survival(np.repeat(time, 10), np.repeat(failed, 10), np.repeat(np.arange(20), 10), TIMES, 0.95)[2]
    for single, many in zip(once, copied, strict=True):
        assert (many.low, many.value, many.high) == pytest.approx((single.low, single.value, single.high))


def test_intervals_of_survival_hold_the_truth_as_often_as_they_say() -> None:
    """500 runs of 40 sources with two series each, which share their source's weakness; a fifth is censored early."""
    truth, covered = np.array([0.9, 0.7, 0.5, 0.3]), []
    for seed in range(500):
        generator = np.random.default_rng(seed)
        cluster = np.repeat(np.arange(40), 2)
        alone = generator.uniform(size=80)
        luck = np.where(generator.uniform(size=80) < 0.5, generator.uniform(size=40)[cluster], alone)
        fails_at = np.array([*TIMES, np.inf])[np.searchsorted(-truth, -luck, side="right")]
        seen_to = np.where(generator.uniform(size=80) < 0.2, generator.choice(TIMES, 80), 1.0)
        shares = survival(np.minimum(fails_at, seen_to), (fails_at <= seen_to) * 1.0, cluster, TIMES, 0.95)[2]
        covered.append([share.low <= true <= share.high for share, true in zip(shares, truth, strict=True)])
    # 500 runs: 0.95 is seen as 0.92 or less once in 500 times.
    assert np.all(np.mean(covered, axis=0) >= 0.92), np.mean(covered, axis=0)
    assert np.all(np.mean(covered, axis=0) <= 0.99), np.mean(covered, axis=0)


def test_the_ends_of_the_median_are_those_of_the_curves_ends() -> None:
    shares = [Interval(value=value, low=value - 0.2, high=min(1.0, value + 0.2)) for value in (0.9, 0.6, 0.45, 0.31)]
    median = median_severity(SEVERITIES, shares)
    assert (median.low, median.value) == (0.5, 0.75)
    assert math.isnan(median.high)


def _curves(rows: list[dict[str, object]]) -> list[Curve]:
    return failure_points(read_pairs(pa.Table.from_pylist(rows)), CONFIG)


def _series(key: str, right: str, *, placebo: bool | None = True) -> list[dict[str, object]]:
    """Return a source, its placebo and an edit at four severities: 1 right, 0 wrong, - turned down by the verifier."""
    rows = [_row(key, key, "source", is_right=True)]
    if placebo is not None:
        rows.append(_row(f"{key}-0", key, "placebo", is_right=placebo))
    for severity, answer in zip(SEVERITIES, right, strict=True):
        row = _row(f"{key}-{severity}", key, "counterfactual", is_right=answer == "1", severity=severity)
        rows.append(row | {"accepted": answer != "-"})
    return rows


def _row(key: str, source_key: str, role: str, *, is_right: bool, severity: float | None = None) -> dict[str, object]:
    kind = {"source": None, "placebo": "placebo", "counterfactual": "background"}[role]
    return {
        "key": key,
        "source_key": source_key,
        "split_key": source_key,
        "role": role,
        "split": "train",
        "label": 0,
        "class_name": "boot",
        "edit_kind": kind,
        "edit_before": kind and "grass",
        "edit_after": kind and "snow",
        "edit_severity": severity,
        "edit_strategy": "",
        "edit_steered": False,
        "accepted": True,
        "prediction": 0 if is_right else 1,
        "p_label": 0.9 if is_right else 0.1,
    }
