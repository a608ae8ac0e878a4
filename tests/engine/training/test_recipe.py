"""What feeds which arm, and the DeepSpeed settings."""

import pytest

from engine.runfile.arms import PRESETS
from engine.runfile.reinforce import ReinforceConfig
from engine.training.recipe import (
    Share,
    batch_share,
    learning_rate,
    nothing_to_learn_from,
)


def test_both_arms_have_the_same_batch() -> None:
    config = ReinforceConfig(batch_size=64, num_workers=2, replay_ratio=0.25)
    assert batch_share(config, "real_only") == Share(real=32, counterfactual=0)
    assert batch_share(config, "reinforced") == Share(real=8, counterfactual=24)


def test_every_arm_sees_as_many_images_in_every_part_of_a_step() -> None:
    config = ReinforceConfig.model_validate(
        {"arms": list(PRESETS), "batch_size": 64, "num_workers": 2, "replay_ratio": 0.75, "consistency": 0.1}
    )
    for name, arm in PRESETS.items():
        share = batch_share(config, name, num_parts=2)
        assert share.real + share.counterfactual == 16
        assert (share.counterfactual > 0) == (arm.edits is not None)
    assert batch_share(config, "reinforced", num_parts=2) == Share(real=12, counterfactual=4, paired=3)
    softened = config.model_copy(update={"soft_labels": 0.5})
    assert batch_share(softened, "reinforced", num_parts=2) == Share(real=12, counterfactual=4, paired=4)


def test_a_small_batch_keeps_a_counterfactual() -> None:
    assert batch_share(ReinforceConfig(batch_size=2, replay_ratio=0.9), "reinforced").counterfactual == 1


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    config = ReinforceConfig(num_steps=100, warmup_share=0.1, learning_rate=0.5)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.05)
    assert max(rates) == rates[10] == 0.5
    assert rates[100] == pytest.approx(0)
    assert learning_rate(0, ReinforceConfig(num_steps=1, warmup_share=0, learning_rate=0.5)) == 0.5


def test_where_no_edit_is_left_the_field_that_left_them_out_is_named() -> None:
    assert nothing_to_learn_from(ReinforceConfig()).startswith("no counterfactual of a train source was accepted")
    found = nothing_to_learn_from(ReinforceConfig(edit_share=0.01, held_out_phrases=0.2))
    assert found.startswith("reinforce.edit_share of 0.01 and reinforce.held_out_phrases leave no accepted counterfact")


def test_edits_first_and_real_images_afterwards() -> None:
    config = ReinforceConfig.model_validate(
        {"arms": {"mine": {"edits": {"first": 0.25}}}, "ships": "mine", "batch_size": 8, "num_steps": 20}
    )
    share = batch_share(config, "mine", num_parts=2)
    assert [(share.at(number).real, share.at(number).counterfactual) for number in (0, 9, 10, 39)] == [
        (0, 4), (0, 4), (4, 0), (4, 0)
    ]  # fmt: skip
    assert [share.before(number) for number in (0, 3, 10, 12)] == [(0, 0), (0, 12), (0, 40), (8, 40)]
    mixed = Share(real=3, counterfactual=5, paired=1)
    assert (mixed.at(7), mixed.before(7)) == (mixed, (14, 35))


def test_losses_of_all_arms_are_for_those_with_edits() -> None:
    config = ReinforceConfig.model_validate(
        {"arms": {"real_only": None, "groupdro": None, "reinforced": {"losses": {"distillation": 1}}},
         "distillation": 3.0, "contrast": 0.1, "first_layer_rate": 0.3}
    )  # fmt: skip
    plain, dro, edits = (config.of_arm(name) for name in config.arms)
    assert (plain.distillation, plain.contrast, plain.worst_group, plain.first_layer_rate) == (0, 0, 0, 0.3)
    assert (dro.distillation, dro.worst_group) == (0, 0.01)
    assert (edits.distillation, edits.contrast) == (1, 0.1)
    assert config.needs_groups
    assert not ReinforceConfig().needs_groups
