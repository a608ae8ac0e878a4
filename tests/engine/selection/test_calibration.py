"""Calibration: thresholds from labels reach their precision where the scores allow it, and are scored honestly."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scored_runs import scored_run

from engine.errors import SelectionError
from engine.runfile.fields import ModelConfig
from engine.runfile.verifier import VerifierConfig
from engine.sample import Verdict
from engine.selection.calibration import NUM_FOLDS, calibrate, deal_folds, score
from engine.selection.labels import Labelled, match_labels, read_label_rows, scores_fingerprint
from engine.selection.selection import Candidate, read_scored, thresholds_of
from engine.selection.thresholds import accepts, short_between, tune
from engine.verdicts.rule import verdict_of

CONFIG = VerifierConfig(model=ModelConfig(name="x"))
NAMES = ("min_image", "min_text", "min_directional", "min_contrast", "consistency")
SCORES = {"image": 0.9, "text_source": 0.3, "text_edit": 0.3, "directional": 0.5, "consistency": 0.1, "contrast": 0.2}


def candidate(key: str, source: str, accepted: bool = True, **scores: float) -> Candidate:
    return Candidate(
        key=key, source_key=source, split_key=source, role="counterfactual", edit_kind="background",
        scores=SCORES | scores, text_changes=True, verdict=Verdict(accepted=accepted), has_pixels=True,
    )  # fmt: skip


def labelled(num: int, *, noise: float = 0.0, seed: int = 0, per_source: int = 2) -> list[Labelled]:
    """Return edits that are good where their directional score is above 0.6, but for a share of noise."""
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(num):
        value, flip = float(generator.uniform(0, 1)), generator.uniform(0, 1) < noise
        one = candidate(f"s{index}_cf00", f"s{index // per_source}", directional=value)
        rows.append(Labelled(candidate=one, is_good=(value > 0.6) != flip, weight=1.0))
    return rows


def test_a_threshold_that_parts_good_from_bad_is_found() -> None:
    rows = labelled(200)
    result = calibrate(rows, CONFIG, 0.95)
    chosen = result.together.thresholds
    good = [row.candidate.scores["directional"] for row in rows if row.is_good]
    bad = [row.candidate.scores["directional"] for row in rows if not row.is_good]
    # All good edits are kept, at a few bad ones less than the precision allows.
    assert 0.5 < float(chosen["min_directional"]) <= min(good)
    assert sum(value >= float(chosen["min_directional"]) for value in bad) / len(good) < 0.06
    assert result.together.is_reached
    assert result.together.score.precision.value > 0.9
    assert result.together.score.recall.value > 0.95
    assert result.now.precision.value < 0.6
    # What says nothing about these labels stays as it is.
    assert {name: chosen[name] for name in chosen if name != "min_directional"} == {
        name: getattr(CONFIG, name) for name in NAMES if name != "min_directional"
    }
    assert not result.alone["min_image"].is_reached


def test_thresholds_are_loosened_where_good_edits_were_turned_down() -> None:
    strict = CONFIG.model_copy(update={"min_directional": 0.9})
    result = calibrate(labelled(200), strict, 0.95)
    assert 0.5 < float(result.together.thresholds["min_directional"]) < 0.65
    assert result.together.score.recall.value > 3 * result.now.recall.value


def test_the_grid_agrees_with_the_verifiers_own_rule() -> None:
    generator = np.random.default_rng(3)
    rows = []
    for index in range(120):
        scores = {name: float(generator.normal(value, 0.2)) for name, value in SCORES.items()}
        good = scores["directional"] + scores["image"] + generator.normal(0, 0.2) > 1.4
        rows.append(Labelled(candidate=candidate(f"s{index}_cf00", f"s{index}", **scores), is_good=good, weight=1.0))
    for precision in (0.6, 0.75, 0.9):
        chosen, is_reached = tune(rows, CONFIG, precision, NAMES)
        accepted = accepts(rows, CONFIG.model_copy(update=chosen))
        result = score(rows, accepted)
        assert is_reached
        assert result.precision.value >= precision
        # The best combination is at least as good as leaving everything as it is, where that reaches the precision.
        now = score(rows, accepts(rows, CONFIG))
        assert now.precision.value < precision or result.recall.value >= now.recall.value


def test_consistency_is_asked_for_where_it_parts_good_from_bad() -> None:
    rows = [
        Labelled(
            candidate=candidate(f"s{index}", f"s{index}", consistency=0.01 if index % 2 else -0.01 * (index % 4)),
            is_good=index % 2 == 1,
            weight=1.0,
        )
        for index in range(40)
    ]
    chosen, is_reached = tune(rows, CONFIG.model_copy(update={"consistency": False}), 0.9, NAMES)
    assert is_reached
    assert chosen["consistency"] is True


def test_the_class_is_asked_for_where_its_score_is_there() -> None:
    rows = [
        replace(
            row,
            candidate=replace(row.candidate, scores={**SCORES, "class": row.candidate.scores["directional"] - 0.66}),
        )
        for row in labelled(200)
    ]
    assert "min_class" not in calibrate(rows, CONFIG, 0.95).together.thresholds
    found = calibrate(rows, CONFIG.model_copy(update={"min_class": -1.0}), 0.95).together
    good = [row.candidate.scores["class"] for row in rows if row.is_good]
    assert -0.16 < float(found.thresholds["min_class"]) <= min(good)
    assert found.is_reached


def test_labels_of_chance_are_not_praised() -> None:
    held_out, in_sample = [], []
    for seed in range(6):
        generator = np.random.default_rng(seed)
        rows = []
        for index in range(100):
            scores = {name: float(generator.uniform(0.3, 1)) for name in SCORES}
            is_good = bool(generator.uniform() < 0.5)
            rows.append(Labelled(candidate=candidate(f"s{index}", f"s{index}", **scores), is_good=is_good, weight=1.0))
        result = calibrate(rows, CONFIG, 0.7)
        held_out.append(result.together.score.precision.value)
        chosen = CONFIG.model_copy(update=result.together.thresholds)
        in_sample.append(score(rows, accepts(rows, chosen)).precision.value)
    # On the rows that chose them the thresholds look good; on others they are worth what chance is.
    assert np.mean(in_sample) >= 0.7
    assert np.mean(held_out) < 0.6


def test_a_source_is_never_on_both_sides_of_a_fold() -> None:
    rows = labelled(90, per_source=3)
    folds = deal_folds(rows)
    of_source: dict[str, set[int]] = {}
    for row, fold in zip(rows, folds.tolist(), strict=True):
        of_source.setdefault(row.candidate.split_key, set()).add(fold)
    assert all(len(found) == 1 for found in of_source.values())
    assert set(folds.tolist()) == set(range(NUM_FOLDS))
    assert all(any(not row.is_good for row, at in zip(rows, folds, strict=True) if at == fold) for fold in range(5))


def test_weights_decide_precision_and_recall() -> None:
    good = Labelled(candidate=candidate("a", "a"), is_good=True, weight=9.0)
    bad = Labelled(candidate=candidate("b", "b"), is_good=False, weight=1.0)
    missed = Labelled(candidate=candidate("c", "c"), is_good=True, weight=3.0)
    result = score([good, bad, missed], np.array([True, True, False]))
    assert (result.precision.value, result.recall.value, result.bad_kept) == (0.9, 0.75, 1.0)
    assert result.precision.low < 0.9 < result.precision.high
    # One row that weighs so much is little evidence.
    assert result.precision.high - result.precision.low > 0.5


def test_edits_of_one_source_count_as_one_piece_of_evidence() -> None:
    def width(per_source: int) -> float:
        rows = [replace(row, is_good=True) for row in labelled(60, per_source=per_source)]
        rows[0] = replace(rows[0], is_good=False)
        precision = score(rows, np.ones(60, np.bool_)).precision
        return precision.high - precision.low

    assert width(6) > 1.5 * width(1)


def test_nothing_accepted_has_no_precision() -> None:
    result = score(labelled(20), np.zeros(20, np.bool_))
    assert math.isnan(result.precision.value)
    assert result.recall.value == 0


def test_too_few_labels_are_refused() -> None:
    rows = [replace(row, is_good=index > 3) for index, row in enumerate(labelled(50))]
    with pytest.raises(SelectionError, match=r"50 labels can be used, 46 good and 4 bad: at least 5 of each"):
        calibrate(rows, CONFIG, 0.9)


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.1, 0.9, 0.5), (0.61, 0.64, 0.63), (0.6, 0.7, 0.7), (-0.2, -0.11, -0.15)]
)
def test_a_threshold_has_few_digits(low: float, high: float, expected: float) -> None:
    assert short_between(low, high) == expected
    for gap in (1e-3, 1e-9, 1e-15):
        assert 0.3 < short_between(0.3, 0.3 + gap) <= 0.3 + gap


def test_each_label_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    rundir = scored_run(tmp_path, min_image=0.2, min_text=0.1, min_directional=0.1)
    candidates, config = read_scored(rundir), thresholds_of(rundir.run())
    edits = [one for one in candidates if one.role == "counterfactual"]
    placebo = next(one for one in candidates if one.role == "placebo")
    undefined = replace(edits[4], scores=edits[4].scores | {"image": math.nan})
    candidates = [undefined if one is edits[4] else one for one in candidates]
    table = tmp_path / "labels.csv"
    table.write_text(
        "Key , LABEL\n"
        f"{edits[0].key},good\n{edits[0].key}, Good\n"
        f"{edits[1].key},good\n{edits[1].key},bad\n"
        f"nobody_cf00,bad\n{placebo.key},good\n{edits[2].key},perhaps\n{edits[3].key},BAD\n{edits[4].key},good\n"
    )
    labels = match_labels(read_label_rows(table), candidates, config)
    assert [(row.candidate.key, row.is_good) for row in labels.rows] == [(edits[0].key, True), (edits[3].key, False)]
    lines = {problem: [name.split("(")[1] for name in names] for problem, names in labels.unusable.items()}
    assert lines == {
        "named before with the same label (counted once)": ["line 3)"],
        "called both good and bad": ["line 4)", "line 5)"],
        "the run has no scored edit of this key": ["line 6)"],
        "a placebo: thresholds are chosen for edits that change something": ["line 7)"],
        "the label is neither good nor bad": ["line 8)"],
        "a score is undefined, so it is rejected whatever the thresholds": ["line 10)"],
    }


def test_labels_of_another_picture_are_not_used(tmp_path: Path) -> None:
    one = candidate("a_cf00", "a")
    table = tmp_path / "labels.csv"
    table.write_text(f"key,label,fingerprint\na_cf00,good,{scores_fingerprint(one.scores)}\n")
    assert len(match_labels(read_label_rows(table), [one], CONFIG).rows) == 1
    other = candidate("a_cf00", "a", image=0.8)
    (problem,) = match_labels(read_label_rows(table), [other], CONFIG).unusable
    assert "another picture" in problem


def test_a_label_stands_for_its_share_of_the_run() -> None:
    accepted = [candidate(f"a{index}", f"a{index}") for index in range(30)]
    rejected = [candidate(f"r{index}", f"r{index}", accepted=False, image=0.1) for index in range(4)]
    table = [("a0", "good"), ("a1", "good"), ("a2", "bad"), ("r0", "good"), ("r1", "bad")]
    labels = match_labels(rows_of(table), [*accepted, *rejected], CONFIG)
    assert [row.weight for row in labels.rows] == [10.0, 10.0, 10.0, 2.0, 2.0]
    assert match_labels(rows_of(table[:3]), [*accepted, *rejected], CONFIG).unseen == {"rejected background": 4}


def test_precision_of_an_unequal_sample_is_that_of_the_run() -> None:
    # 90 % of the run is accepted, half of the labels are of rejected edits: unweighted, recall would be far too low.
    generator = np.random.default_rng(0)
    truth: dict[str, bool] = {}
    candidates = []
    for index in range(3000):
        value = float(generator.normal(0.5, 0.25))
        one = candidate(f"s{index}", f"s{index}", directional=value)
        verdict = verdict_of(one.scores, CONFIG, text_changes=True)
        candidates.append(replace(one, verdict=verdict))
        truth[one.key] = bool(generator.uniform() < (0.9 if verdict.accepted else 0.3))
    kept = [one for one in candidates if one.verdict.accepted][:150]
    refused = [one for one in candidates if not one.verdict.accepted][:150]
    rows = rows_of([(one.key, "good" if truth[one.key] else "bad") for one in (*kept, *refused)])
    now = calibrate(match_labels(rows, candidates, CONFIG).rows, CONFIG, 0.9).now
    num_good = sum(truth.values())
    recall = sum(truth[one.key] for one in candidates if one.verdict.accepted) / num_good
    assert now.recall.low < recall < now.recall.high
    assert now.recall.value == pytest.approx(recall, abs=0.03)
    assert now.precision.value == pytest.approx(0.9, abs=0.06)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name,verdict\na,good\n", "has no column key and no column label, its first line says name, verdict"),
        (b"", "its first line says nothing"),
        (b"\xff\xfe", "not UTF-8"),
        (b'key,label\n"a' + b"b" * 200_000, "is not CSV"),
    ],
)
def test_a_file_that_is_no_table_of_labels_is_explained(tmp_path: Path, content: bytes, message: str) -> None:
    table = tmp_path / "labels.csv"
    table.write_bytes(content)
    with pytest.raises(SelectionError, match=message):
        read_label_rows(table)


def test_a_file_that_is_not_there_is_explained(tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="show RUN --label"):
        read_label_rows(tmp_path / "nowhere.csv")


def rows_of(pairs: list[tuple[str, str]]) -> list[object]:
    from engine.selection.labels import LabelRow

    return [
        LabelRow(line=place, key=key, label=label, fingerprint="") for place, (key, label) in enumerate(pairs, start=2)
    ]
