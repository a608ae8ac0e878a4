"""Phrases: words that mean the same are one, luck is not first, and what the placebo breaks is nobody's doing."""

import numpy as np
import pyarrow as pa
import pytest

from engine.probe.pairs import finds_cells, read_pairs
from engine.probe.phrases import MAX_PHRASES, Phrase, phrases_json, plain_phrase, rank_phrases
from engine.statistics import wilson_interval

FOUND, SCORED = ([f"k{n}" for n in range(400) if finds_cells(f"k{n}") is half] for half in (True, False))


def test_a_phrase_that_flips_surely_is_before_one_that_flipped_all_of_two() -> None:
    rows = [*_edits(FOUND[:2], "grass", "snow", 2), *_edits(FOUND[10:50], "grass", "sand", 30)]
    first, second = _rank(rows)
    assert (first.after, second.after) == ("sand", "snow")
    assert first.rank == pytest.approx(wilson_interval(30, 40)[0])


def test_the_rate_is_that_of_the_sources_that_did_not_rank_it() -> None:
    rows = [*_edits(FOUND[:20], "grass", "snow", 20), *_edits(SCORED[:10], "grass", "snow", 3)]
    (phrase,) = _rank(rows)
    content = phrase.to_json()
    assert (content["flips"], content["occurrences"], content["n_sources"]) == (23, 30, 10)
    assert content["flip_rate"] == pytest.approx(0.3)
    assert (content["flip_rate_low"], content["flip_rate_high"]) == wilson_interval(3, 10)
    alone = _rank(_edits(FOUND[:5], "grass", "snow", 5))[0].to_json()
    assert alone["flip_rate"] is None


def test_case_spaces_and_plurals_make_no_other_phrase() -> None:
    spellings = ["a sandy beach", "A  Sandy Beach", "sandy beaches", "a sandy beach "]
    rows = [row for number, after in enumerate(spellings) for row in _edits([FOUND[number]], "grass", after, 1)]
    phrases = _rank(rows)
    assert sorted((phrase.after, phrase.occurrences) for phrase in phrases) == [
        ("a sandy beach", 3),
        ("sandy beaches", 1),
    ]
    assert len({plain_phrase(text) for text in ("Berries", "berry ", " BERRY")}) == 1
    assert [plain_phrase(word) for word in ("grass", "iris", "cactus", "foxes", "dresses", "houses", "gas")] == [
        "grass",
        "iris",
        "cactus",
        "fox",
        "dress",
        "house",
        "gas",
    ]


def test_what_the_placebo_breaks_is_no_phrases_doing() -> None:
    rows = [*_edits(FOUND[:10], "grass", "snow", 5), *_edits(FOUND[10:20], "grass", "snow", 10, placebo_right=False)]
    rows += _edits(FOUND[20:25], "grass", "snow", 5, source_right=False)
    (phrase,) = _rank(rows)
    assert (phrase.flips, phrase.occurrences) == (5, 10)


def test_a_source_counts_once_at_its_largest_severity() -> None:
    rows = _edits(FOUND[:4], "grass", "snow", 4)
    milder = [row | {"key": f"{row['key']}-mild", "edit_severity": 0.5, "prediction": 0} for row in rows[2::3]]
    (phrase,) = _rank([*rows, *milder])
    assert (phrase.flips, phrase.occurrences) == (4, 4)


def test_the_rate_of_the_first_phrase_holds_its_truth_as_often_as_it_says() -> None:
    """150 runs of 30 phrases that all flip 40 %, on 8 sources a half: the first is lucky where it was ranked only."""
    covered, bias = [], []
    for seed in range(150):
        generator = np.random.default_rng(seed)
        rows = []
        for number in range(30):
            for half in (FOUND, SCORED):
                keys = [half[index] for index in generator.choice(len(half), 8, replace=False)]
                rows += _edits(keys, "grass", f"v{number}", int(generator.binomial(8, 0.4)))
        content = rank_phrases(read_pairs(pa.Table.from_pylist(rows)))[0].to_json()
        low, rate, high = (float(str(content[f"flip_rate{end}"])) for end in ("_low", "", "_high"))
        covered.append(low <= 0.4 <= high)
        bias.append(rate - 0.4)
    assert np.mean(covered) >= 0.91
    assert abs(np.mean(bias)) < 0.05


def test_the_file_holds_the_first_phrases_and_the_number_of_all() -> None:
    rows = [row for number in range(MAX_PHRASES + 5) for row in _edits([FOUND[0]], "grass", f"v{number}", 1)]
    content = phrases_json(_rank(rows))
    assert content["num_phrases"] == MAX_PHRASES + 5
    assert isinstance(content["phrases"], list)
    assert len(content["phrases"]) == MAX_PHRASES


def _rank(rows: list[dict[str, object]]) -> list[Phrase]:
    return rank_phrases(read_pairs(pa.Table.from_pylist(rows)))


def _edits(
    keys: list[str], before: str, after: str, flips: int, *, placebo_right: bool = True, source_right: bool = True
) -> list[dict[str, object]]:
    """Return source, placebo and one edit of each key; the first `flips` edits are wrong."""
    rows = []
    for number, key in enumerate(keys):
        rows.append(_row(key, key, "source", (None, None, None), is_right=source_right))
        rows.append(_row(f"{key}-0", key, "placebo", ("placebo", "", ""), is_right=placebo_right))
        edit = ("background", before, after)
        rows.append(_row(f"{key}-{after}", key, "counterfactual", edit, is_right=number >= flips))
    return rows


def _row(
    key: str, source_key: str, role: str, edit: tuple[str | None, str | None, str | None], *, is_right: bool
) -> dict[str, object]:
    return {
        "key": key,
        "source_key": source_key,
        "split_key": source_key,
        "role": role,
        "split": "train",
        "label": 0,
        "class_name": "boot",
        "edit_kind": edit[0],
        "edit_before": edit[1],
        "edit_after": edit[2],
        "edit_severity": 1.0,
        "edit_strategy": "",
        "edit_steered": False,
        "accepted": True,
        "prediction": 0 if is_right else 1,
        "p_label": 0.9 if is_right else 0.1,
    }
