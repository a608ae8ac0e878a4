"""The gate: which checkpoint is kept, and when a classifier ships."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from engine.runfile.arms import PRESETS
from engine.runfile.reinforce import ReinforceConfig
from engine.training.gate import Decision, Gate, Score

CONFIG = ReinforceConfig.model_validate({"max_accuracy_loss": 0.2, "arms": list(PRESETS)})
SOURCES = [f"s{number}" for number in range(20)]
PATIENT = Score(real="1" * 9 + "0", edits="0" * 20)
GOOD = Score(real="1" * 9 + "0", edits="1" * 20)


def gate(
    patient: Score = PATIENT,
    config: ReinforceConfig = CONFIG,
    real_groups: Sequence[str] | None = None,
    edit_groups: Sequence[str] = SOURCES,
) -> Gate:
    groups = real_groups or [f"r{number}" for number in range(len(patient.real))]
    return Gate(base=patient, config=config, real_groups=groups, edit_groups=edit_groups)


def key(score: Score, patient: Score = PATIENT, config: ReinforceConfig = CONFIG) -> tuple[bool, float]:
    return gate(patient, config).rank(score, PRESETS["reinforced"])


def decide(arms: dict[str, Score], edit_groups: Sequence[str] = SOURCES) -> Decision:
    return gate(edit_groups=edit_groups).decide(arms)


def test_a_checkpoint_outside_the_guard_ranks_below_all_within() -> None:
    within = Score(real="1" * 8 + "00", edits="0" * 20)
    outside = Score(real="1" * 7 + "000", edits="1" * 20)
    assert key(within) > key(outside)


def test_within_the_guard_the_mean_of_both_accuracies_ranks() -> None:
    assert key(GOOD) == (True, pytest.approx(0.95))
    assert key(replace(GOOD, edits="")) == (True, pytest.approx(0.9))


def test_a_loss_that_is_allowed_but_not_sure_is_outside_the_guard() -> None:
    patient = Score(real="1" * 1000)
    config = ReinforceConfig(max_accuracy_loss=0.005)
    found = gate(patient, config).accuracy_loss(Score(real="1" * 996 + "0" * 4))
    assert found == pytest.approx((0.004, 0.002), abs=1e-4)
    assert key(Score(real="1" * 998 + "00"), patient, config)[0]
    assert not key(Score(real="1" * 996 + "0000"), patient, config)[0]


def test_images_of_one_garment_are_no_independent_evidence() -> None:
    patient, lost = Score(real="1" * 1000), Score(real="1" * 996 + "0" * 4)
    twice = [f"garment {number // 2}" for number in range(1000)]
    loss, error = gate(patient).accuracy_loss(lost)
    assert gate(patient, real_groups=twice).accuracy_loss(lost) == pytest.approx((loss, error * 2**0.5), rel=1e-3)


def test_images_of_one_garment_alone_say_nothing_of_another() -> None:
    same = Score(real="1" * 10)
    alone = gate(same, real_groups=["garment"] * 10)
    assert not alone.is_within_guard(same)
    assert "one split key: no error is known" in alone.decide({"reinforced": same}).reasons[0]


def test_the_oracle_is_chosen_by_edits_whatever_it_forgets() -> None:
    forgets = Score(real="0" * 10, edits="1" * 20)
    assert gate().rank(forgets, PRESETS["oracle"]) > gate().rank(PATIENT, PRESETS["oracle"])
    assert key(forgets) < key(PATIENT)
    assert gate().rank(Score(real="10"), PRESETS["oracle"]) == (True, 0.5)


def test_an_image_that_cannot_be_read_counts_for_nobody() -> None:
    assert Score(real="11-0-").accuracy == pytest.approx(2 / 3)


def test_a_clear_gain_ships_with_its_figures() -> None:
    decision = decide({"reinforced": GOOD, "real_only": PATIENT})
    assert decision.verdict == "ship"
    assert any("100.0 %, base classifier 0.0 % (20 split keys better, 0 worse" in reason for reason in decision.reasons)


@pytest.mark.parametrize(
    ("reinforced", "real_only", "words"),
    [
        (replace(GOOD, real="1" * 5 + "0" * 5), PATIENT, "a loss of 40.0 points (standard error 16.3), a loss of 20.0"),
        (PATIENT, replace(PATIENT, edits="1" * 20), "accuracy on validation edits 0.0 %, base classifier 0.0 %"),
        (replace(GOOD, edits="1" * 2 + "0" * 18), PATIENT, "sign test p = 0.5"),
        (GOOD, GOOD, "real images only 100.0 %"),
        (replace(GOOD, edits=""), PATIENT, "raise data.num_validation_sources"),
    ],
)
def test_it_does_not_ship_and_says_why(reinforced: Score, real_only: Score, words: str) -> None:
    sources = SOURCES if reinforced.edits else []
    decision = decide({"reinforced": reinforced, "real_only": real_only}, sources)
    assert decision.verdict == "do not ship"
    assert any(words in reason for reason in decision.reasons), decision.reasons


def test_a_cheaper_arm_that_is_as_good_stops_it_and_the_oracle_does_not() -> None:
    decision = decide({"reinforced": GOOD, "cutmix": GOOD})
    assert decision.verdict == "do not ship"
    assert any("real images under CutMix 100.0 %" in reason for reason in decision.reasons)
    assert decide({"reinforced": GOOD, "oracle": GOOD, "random_edits": GOOD}).verdict == "ship"


def test_edits_of_one_source_are_one_vote() -> None:
    sources = ["one"] * 20
    decision = decide({"reinforced": GOOD}, sources)
    assert decision.verdict == "do not ship"
    assert "(1 split keys better, 0 worse, sign test p = 1)" in decision.reasons[0]


def test_without_a_reinforced_arm_nothing_ships() -> None:
    assert decide({}, []).verdict == "do not ship"


def test_the_run_file_says_which_arm_ships() -> None:
    config = ReinforceConfig.model_validate({"max_accuracy_loss": 0.2, "arms": list(PRESETS), "ships": "random_edits"})
    judge = Gate(base=PATIENT, config=config, real_groups=SOURCES[:10], edit_groups=SOURCES)
    assert judge.decide({"random_edits": GOOD, "reinforced": PATIENT}).verdict == "ship"
    assert judge.decide({"reinforced": GOOD}).reasons == ("there is no random_edits arm",)
