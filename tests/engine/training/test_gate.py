"""The gate: which checkpoint is kept, and when a classifier ships."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from engine.runfile.arms import PRESETS
from engine.runfile.reinforce import ReinforceConfig
from engine.training.gate import Decision, Gate, Score
from engine.training.halves import chooses, split_halves

CONFIG = ReinforceConfig.model_validate({"max_accuracy_loss": 0.2, "arms": list(PRESETS)})
NUM_CANDIDATES = 16
KEYS = [f"k{number}" for number in range(1000)]
CHOOSING = [key for key in KEYS if chooses(key)][:20]
DECIDING = [key for key in KEYS if not chooses(key)][:20]
# Ten real images and twenty edits of each half, the choosing one first.
REAL, SOURCES = [*CHOOSING[:10], *DECIDING[:10]], [*CHOOSING, *DECIDING]
PATIENT = Score(real="1111111110" * 2, edits="0" * 40)
GOOD = Score(real="1111111110" * 2, edits="1" * 40)


def gate(
    patient: Score = PATIENT,
    config: ReinforceConfig = CONFIG,
    real_groups: Sequence[str] | None = None,
    edit_groups: Sequence[str] = SOURCES,
) -> Gate:
    groups = real_groups or (REAL if len(patient.real) == len(REAL) else KEYS[: len(patient.real)])
    return Gate(base=patient, config=config, real_groups=groups, edit_groups=edit_groups)


def key(score: Score, patient: Score = PATIENT, config: ReinforceConfig = CONFIG) -> tuple[bool, float]:
    return gate(patient, config).rank(score, PRESETS["reinforced"])


def decide(arms: dict[str, Score], edit_groups: Sequence[str] = SOURCES) -> Decision:
    return gate(edit_groups=edit_groups).decide(arms, NUM_CANDIDATES)


def test_a_checkpoint_outside_the_guard_ranks_below_all_within() -> None:
    within = Score(real="1111111100" * 2, edits="0" * 40)
    outside = Score(real="1111111000" * 2, edits="1" * 40)
    assert key(within) > key(outside)


def test_within_the_guard_the_mean_of_both_accuracies_ranks() -> None:
    assert key(GOOD) == (True, pytest.approx(0.95))
    assert gate(edit_groups=()).rank(replace(GOOD, edits=""), PRESETS["reinforced"]) == (True, pytest.approx(0.9))


def test_the_deciding_half_has_no_part_in_the_choice() -> None:
    half = Score(real="1111111110" + "0" * 10, edits="1" * 20 + "0" * 20)
    assert key(half) == key(GOOD)
    assert half.accuracy == pytest.approx(0.45)  # what reinforce.json reports is of all images
    decision = decide({"reinforced": half})
    assert decision.verdict == "do not ship"
    assert "real validation accuracy 0.0 %, base classifier 90.0 %: a loss of 90.0 points" in decision.reasons[0]
    assert "accuracy on validation edits 0.0 %, base classifier 0.0 %" in decision.reasons[1]


def test_what_was_outside_the_guard_where_it_was_chosen_does_not_ship() -> None:
    forgets = replace(GOOD, real="1111110000" + "1111111110")
    assert decide({"reinforced": forgets}).verdict == "do not ship"
    assert "on 10 split keys, where they show a loss of 30.0 points (standard error 15.3), 20.0 with" in _only_reason(
        forgets
    )


def _only_reason(score: Score) -> str:
    (reason,) = decide({"reinforced": score}).reasons
    return reason


def test_edits_stay_with_the_real_images_of_their_source() -> None:
    halves = split_halves("1" * 1000, KEYS, KEYS)
    assert halves.apart
    assert halves.choosing.real == halves.choosing.edits
    assert 450 < halves.choosing.num_keys < 550
    assert sorted(halves.choosing.real + halves.deciding.real) == list(range(1000))


def test_too_few_split_keys_are_not_halved() -> None:
    few = gate(Score(real="1" * 8, edits="0" * 8), real_groups=KEYS[:8], edit_groups=KEYS[:8])
    assert not few.halves.apart
    assert few.halves.choosing == few.halves.deciding
    reasons = few.decide({"reinforced": Score(real="1" * 8, edits="1" * 8)}, 3).reasons
    assert "among 3 candidates on 8 split keys" in reasons[-1]
    assert reasons[-1].endswith("the verdict rests on the same, too few to keep half of them apart")
    assert split_halves("-" * 900 + "1" * 100, KEYS, ()).choosing.num_keys < 70


def test_a_loss_that_is_allowed_but_not_sure_is_outside_the_guard() -> None:
    patient = Score(real="1" * 1000)
    config = ReinforceConfig(max_accuracy_loss=0.005)
    judge = gate(patient, config, edit_groups=())
    chosen, decided = judge.halves.choosing.real, judge.halves.deciding.real

    def wrong(places: Sequence[int]) -> Score:
        return Score(real="".join("0" if place in places else "1" for place in range(1000)))

    found = judge.accuracy_loss(wrong(chosen[:2]), judge.halves.choosing)
    share = 2 / len(chosen)
    assert (found.loss, found.error) == pytest.approx((share, (share / len(chosen)) ** 0.5), rel=0.01)
    # 1.645 standard errors.
    assert found.bound == pytest.approx(share + 1.648 * found.error, rel=1e-3)
    assert judge.rank(wrong(chosen[:1]), PRESETS["reinforced"])[0]
    assert not judge.rank(wrong(chosen[:2]), PRESETS["reinforced"])[0]
    # The deciding half needs no standard error: nothing was chosen there.
    for places, ships in ((decided[:2], True), (decided[:3], False)):
        assert (judge.decide({"reinforced": wrong(places)}, 1).reasons[0].startswith("no accepted edit")) == ships


def test_images_of_one_garment_are_no_independent_evidence() -> None:
    patient, lost = Score(real="1" * 1000), Score(real="1" * 996 + "0" * 4)
    twice = [f"garment {number // 2}" for number in range(1000)]
    halves = split_halves("1" * 1000, twice, ())
    every = replace(halves.choosing, real=tuple(range(1000)))
    alone = gate(patient).accuracy_loss(lost, every)
    pairs = gate(patient, real_groups=twice).accuracy_loss(lost, every)
    assert (pairs.loss, pairs.error) == pytest.approx((alone.loss, alone.error * 2**0.5), rel=1e-3)


def test_images_of_one_garment_alone_say_nothing_of_another() -> None:
    same = Score(real="1" * 10)
    alone = gate(same, real_groups=["garment"] * 10, edit_groups=())
    assert not alone.is_within_guard(same)
    decision = alone.decide({"reinforced": same}, 1)
    assert "a gain of 0.0 points (one split key: no error)" in decision.reasons[-1]
    assert decision.numbers["accuracy_loss_bound"] is None


def test_the_oracle_is_chosen_by_edits_whatever_it_forgets() -> None:
    forgets = Score(real="0" * 20, edits="1" * 40)
    assert gate().rank(forgets, PRESETS["oracle"]) > gate().rank(PATIENT, PRESETS["oracle"])
    assert key(forgets) < key(PATIENT)
    assert gate(edit_groups=()).rank(Score(real="10" * 10), PRESETS["oracle"]) == (True, 0.5)


def test_an_image_that_cannot_be_read_counts_for_nobody() -> None:
    assert Score(real="11-0-").accuracy == pytest.approx(2 / 3)


def test_a_clear_gain_ships_with_its_figures() -> None:
    decision = decide({"reinforced": GOOD, "real_only": PATIENT})
    assert decision.verdict == "ship"
    assert any("100.0 %, base classifier 0.0 % (20 split keys better, 0 worse" in reason for reason in decision.reasons)
    assert "weights chosen among 16 candidates on 10 split keys, where" in decision.reasons[-1]
    assert decision.reasons[-1].endswith("; the verdict rests on the 10 others")
    assert decision.numbers == {
        "num_candidates": 16, "apart": True, "num_choosing_keys": 10, "num_deciding_keys": 10, "accuracy_loss": 0.0,
        "accuracy_loss_error": 0.0, "accuracy_loss_bound": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reinforced", "real_only", "words"),
    [
        (replace(GOOD, real="1111100000" * 2), PATIENT, "a loss of 40.0 points (standard error 16.3), below 69.9 at"),
        (PATIENT, replace(PATIENT, edits="1" * 40), "accuracy on validation edits 0.0 %, base classifier 0.0 %"),
        (replace(GOOD, edits="0" * 38 + "11"), PATIENT, "sign test p = 0.5"),
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
    sources = ["one"] * 40
    decision = decide({"reinforced": GOOD}, sources)
    assert decision.verdict == "do not ship"
    assert "(1 split keys better, 0 worse, sign test p = 1)" in decision.reasons[0]


def test_a_cure_of_one_habit_that_makes_another_does_not_ship() -> None:
    """On the deciding half, background edits go from 0 to 20 right; colour edits lose all but one of 10."""
    kinds = ["background", "colour"] * 20
    base = replace(PATIENT, edits="01" * 20)
    judge = replace(gate(base), edit_kinds=kinds)
    better = Score(real=base.real, edits="11" * 20)
    assert judge.decide({"reinforced": better}, 1).verdict == "ship"
    trades = replace(better, edits="11" * 10 + "10" * 9 + "11")
    reasons = judge.decide({"reinforced": trades}, 1).reasons
    assert any(
        "edits of colour fell from 100.0 % to 10.0 % (0 split keys better, 9 worse, p = 0.0078" in reason
        for reason in reasons
    )
    # Five of ten are no proof over two kinds.
    assert not any(
        "fell" in reason for reason in _reasons(judge, replace(better, edits="11" * 10 + "10" * 5 + "11" * 5))
    )


def _reasons(judge: Gate, score: Score) -> tuple[str, ...]:
    return judge.decide({"reinforced": score}, 1).reasons


def test_without_a_reinforced_arm_nothing_ships() -> None:
    assert decide({}, []).verdict == "do not ship"


def test_the_run_file_says_which_arm_ships() -> None:
    config = ReinforceConfig.model_validate({"max_accuracy_loss": 0.2, "arms": list(PRESETS), "ships": "random_edits"})
    judge = Gate(base=PATIENT, config=config, real_groups=REAL, edit_groups=SOURCES)
    assert judge.decide({"random_edits": GOOD, "reinforced": PATIENT}, 1).verdict == "ship"
    assert judge.decide({"reinforced": GOOD}, 1).reasons == ("there is no random_edits arm",)
