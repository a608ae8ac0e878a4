"""The rule: which checks decide, which vote, what a check that was not asked means, and what a run file may say."""

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest
from pydantic import ValidationError

from engine.runfile.fields import ModelConfig
from engine.runfile.verifier import VerifierConfig, checks_of, settings_of, with_settings
from engine.sample import Verdict
from engine.selection.calibration import calibrate
from engine.selection.labels import Labelled
from engine.selection.selection import Candidate
from engine.selection.thresholds import accepts
from engine.verdicts.rule import passes_so_far, verdict_of, verdict_reasons

EYES = {"kind": "vision", "model": {"name": "x"}}
GOOD = {
    "image": 0.9, "text_source": 0.3, "text_edit": 0.3, "directional": 0.5, "consistency": 0.1, "contrast": 0.2,
    "eyes": 0.8, "grid.grid": -0.1, "grid.resampling": 0.0, "grid.repetition": 0.0,
}  # fmt: skip


def config(**changes: object) -> VerifierConfig:
    settings = {
        "model": ModelConfig(name="x"),
        "signals": {"eyes": EYES, "grid": {"kind": "spectrum"}},
        "floors": {"eyes": 0.5, "grid.grid": -1.0},
    }
    return VerifierConfig.model_validate(settings | changes)


def reasons(scores: Mapping[str, float], rule: object = None, **changes: object) -> tuple[str, ...]:
    settings = config(**({} if rule is None else {"rule": rule}), **changes)
    return verdict_reasons(scores, settings, text_changes=True)


def test_a_floor_of_a_signal_is_a_check_like_any_other() -> None:
    assert reasons(GOOD) == ()
    assert reasons(GOOD | {"eyes": 0.4}) == ("eyes",)
    assert reasons(GOOD | {"image": 0.1, "grid.grid": -2.0}) == ("image", "grid.grid")
    # A score without a floor is kept and not asked.
    assert reasons(GOOD | {"grid.resampling": -5.0}) == ()
    assert reasons(GOOD | {"eyes": math.nan}) == ("not_finite",)


def test_checks_that_vote_turn_an_edit_down_together() -> None:
    rule = {"at_least": 2, "of": ["image", "text_edit", "eyes"]}
    assert reasons(GOOD | {"eyes": 0.1}, rule) == ()
    assert reasons(GOOD | {"eyes": 0.1, "image": 0.1}, rule) == ("image", "eyes")
    # What does not vote must still pass.
    assert reasons(GOOD | {"contrast": 0.0}, rule) == ("contrast",)
    assert reasons(GOOD | {"contrast": 0.0}, rule | {"every": []}) == ()
    # An undefined score is no vote, and a reason only where it was missing.
    assert reasons(GOOD | {"eyes": math.nan}, rule) == ()
    assert reasons(GOOD | {"eyes": math.nan, "image": 0.1}, rule) == ("image", "not_finite")


def test_a_check_of_the_text_passes_where_the_text_does_not_change() -> None:
    settings = config(rule={"at_least": 2, "of": ["directional", "eyes"]})
    placebo = GOOD | {"directional": math.nan, "consistency": math.nan}
    assert verdict_of(placebo, settings, text_changes=False) == Verdict(accepted=True)
    assert verdict_reasons(placebo | {"eyes": 0.1}, settings, text_changes=False) == ("eyes",)


def test_a_dear_check_is_asked_of_what_passes_all_else() -> None:
    settings = config(signals={"eyes": EYES | {"asked_of": "passing"}}, floors={"eyes": 0.5})
    unasked = {name: value for name, value in GOOD.items() if name != "eyes"}
    assert passes_so_far(unasked, settings, text_changes=True)
    assert not passes_so_far(unasked | {"image": 0.1}, settings, text_changes=True)
    # Without it an edit that passes all else stays rejected, by name; one that fails something is rejected for that.
    assert verdict_reasons(unasked, settings, text_changes=True) == ("not_asked",)
    assert verdict_reasons(unasked | {"image": 0.1}, settings, text_changes=True) == ("image",)


def test_a_dear_check_that_votes_is_asked_only_where_it_can_decide() -> None:
    dear = {"eyes": EYES | {"asked_of": "passing"}}
    settings = config(signals=dear, floors={"eyes": 0.5}, rule={"at_least": 2, "of": ["image", "text_edit", "eyes"]})
    unasked = {name: value for name, value in GOOD.items() if name != "eyes"}
    assert passes_so_far(unasked | {"image": 0.1}, settings, text_changes=True)
    assert verdict_reasons(unasked | {"image": 0.1}, settings, text_changes=True) == ("image",)
    assert not passes_so_far(unasked | {"image": 0.1, "text_edit": 0.1}, settings, text_changes=True)
    assert verdict_reasons(unasked, settings, text_changes=True) == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"floors": {"ears": 0.5}}, "floors.ears: no signal makes this score; they make: eyes, grid.grid"),
        ({"rule": {"of": ["ears"], "at_least": 1}}, "rule: ears is no check of this verifier; it has: image"),
        ({"rule": {"of": ["eyes"], "at_least": 2}}, "at_least is 2 of 1 checks"),
        ({"rule": {"of": ["eyes"]}}, "at_least is 0 of 1 checks"),
        ({"rule": {"every": ["eyes"], "of": ["eyes"], "at_least": 1}}, "eyes: in `every` and in `of`"),
        ({"signals": {"image": EYES}}, "signals.image: image, text_source"),
        ({"model": None, "signals": {}, "floors": {}}, "a verifier needs a model"),
        ({"model": None, "min_image": 0.4}, "min_image is of the scores of `model`, a CLIP, and there is none"),
        ({"signals": {"eyes": {"kind": "ears"}}}, "clip"),
    ],
)
def test_a_rule_that_cannot_hold_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config(**changes)


def test_a_verifier_without_a_clip_asks_for_contrast_and_its_signals() -> None:
    settings = config(model=None)
    assert [check.score for check in checks_of(settings)] == ["contrast", "eyes", "grid.grid"]
    assert settings_of(settings) == {"min_contrast": 0.02, "floors.eyes": 0.5, "floors.grid.grid": -1.0}
    changed = with_settings(settings, {"floors.eyes": 0.6, "min_contrast": 0.1})
    assert settings_of(changed) == {"min_contrast": 0.1, "floors.eyes": 0.6, "floors.grid.grid": -1.0}


def test_a_floor_is_set_by_the_path_of_its_score() -> None:
    nested = config(floors={"eyes": 0.5, "grid.grid": -1.0, "grid": {"grid": -0.25}})
    assert nested.floors == {"eyes": 0.5, "grid.grid": -0.25}


def labelled(num: int, seed: int) -> list[Labelled]:
    """Edits that are good where at least two of three scores are high; the others lie about where they should."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(num):
        scores = {name: value + float(rng.normal(0, 0.02)) for name, value in GOOD.items()}
        votes = {name: float(rng.uniform(0, 1)) for name in ("image", "text_edit", "eyes")}
        one = Candidate(
            key=f"s{index}_cf00", source_key=f"s{index}", split_key=f"s{index}", role="counterfactual",
            edit_kind="background", scores=scores | votes, text_changes=bool(rng.uniform() < 0.8),
            verdict=Verdict(accepted=True), has_pixels=True,
        )  # fmt: skip
        rows.append(Labelled(candidate=one, is_good=sum(value > 0.5 for value in votes.values()) >= 2, weight=1.0))
    return rows


def test_a_mask_of_many_rows_is_the_verdict_of_each() -> None:
    rows = labelled(200, seed=1)
    rules: list[dict[str, object]] = [
        {},
        {"at_least": 2, "of": ["image", "text_edit", "eyes"]},
        {"every": ["eyes", "directional"]},
    ]
    for rule, floor in itertools.product(rules, (0.3, 0.7)):
        settings = config(rule=rule, min_image=floor, min_text=floor - 0.2, floors={"eyes": floor})
        expected = [
            not verdict_reasons(row.candidate.scores, settings, text_changes=row.candidate.text_changes) for row in rows
        ]
        assert accepts(rows, settings).tolist() == expected


def test_floors_of_checks_that_vote_are_found_from_labels() -> None:
    rule = {"every": ["contrast"], "at_least": 2, "of": ["image", "text_edit", "eyes"]}
    loose = config(rule=rule, min_image=0.0, min_text=0.0, floors={"eyes": 0.0, "grid.grid": -1.0})
    found = calibrate(labelled(300, seed=2), loose, 0.95)
    assert found.now.precision.value < 0.6
    assert found.together.is_reached
    assert found.together.score.precision.value > 0.9
    assert found.together.score.recall.value > 0.85
    chosen = found.together.thresholds
    assert all(0.35 < float(chosen[name]) < 0.6 for name in ("min_image", "min_text", "floors.eyes"))
    # What the rule does not count is not tuned.
    assert set(found.alone) == {"min_image", "min_text", "min_contrast", "floors.eyes"}
