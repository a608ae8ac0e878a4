"""What the report says of each kind of edit before and after training."""

import pytest
from report_runs import evaluation

from engine.report.views.arms import looks_of
from engine.report.views.kinds import edits_by_kind, kinds_view, worst_change
from engine.runfile.reinforce import ReinforceConfig

WORST = "The worst change of the 2 kinds of edit"
WARNING = "Warning: curing one habit made another"


def rows(change: float, half: float) -> list[dict[str, object]]:
    """Background is cured; the drop by colour changes by `change`, +- `half`."""
    return [
        {
            "kind": kind, "value": None, "n_sources": 40, "n_edits": 80,
            "arms": {
                "patient": {"drop": 0.2, "change": None},
                "reinforced": {"drop": 0.1, "change": by, "change_low": by - half, "change_high": by + half},
            },
        }
        for kind, by in (("background", -0.4), ("colour", change))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "half", "words"),
    [
        (
            0.012,
            0.015,
            f"{WORST}: the drop by edits of colour changed by +1.2 points (−0.3",
        ),
        (
            -0.05,
            0.01,
            f"{WORST}: the drop by edits of colour changed by −5.0 points (−6.0",
        ),
        (
            0.12,
            0.05,
            f"{WARNING}: the drop by edits of colour changed by +12.0 points (+7.0",
        ),
    ],
)
def test_the_verdict_names_the_kind_whose_drop_changed_worst(change: float, half: float, words: str) -> None:
    found = worst_change(rows(change, half), "reinforced")
    assert found is not None
    assert found.startswith(words)


def test_without_an_arm_there_is_no_change_to_name() -> None:
    assert worst_change(rows(0.1, 0.01), "other") is None
    assert worst_change([], "reinforced") is None
    # An evaluation of a version that did not compare kinds.
    assert edits_by_kind({"arms": {"patient": {"digest": "d"}}}) == []


def test_the_page_draws_a_kind_and_its_values_from_the_largest_drop() -> None:
    found = edits_by_kind(evaluation())
    summary = {"training": None, "accuracy_biased": {"patient": None, "real_only": None, "reinforced": None}}
    view = kinds_view(found, "reinforced", looks_of(summary, ReinforceConfig()))
    assert view is not None
    assert [row["name"] for row in view["rows"] if row["is_kind"]] == ["background", "colour"]
    first, _, colour, _ = view["rows"]
    assert (first["before"], first["after"], first["change"], first["has_grown"]) == ("+80.0", "+10.0", "−70.0", False)
    assert (colour["change"], colour["range"], colour["has_grown"]) == ("+12.0", "+7.0 to +17.0", True)
    # From 0 to 80 points: the base classifier's mark at the right end, the reinforced one at an eighth.
    assert view["scale"][0] == (0.0, "0")
    assert 'x1="12.5%" x2="100.0%"' in first["picture"]
    assert 'class="track dumbbell grown"' in colour["picture"]
    assert "&lt;script&gt;" in view["rows"][1]["picture"]
