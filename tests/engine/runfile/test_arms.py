"""Arms are data: presets, maps that start from them, and what the gate and the page need of both."""

import pytest
from pydantic import ValidationError
from repository import DEMO

from engine.report.views.arms import COLOURS, looks_of
from engine.runfile.arms import BASE, PRESETS, ArmConfig, EditsConfig, LossConfig
from engine.runfile.load import dump_run_file, load_run_file
from engine.runfile.reinforce import ReinforceConfig

NO_RESULTS = {"training": None, "accuracy_biased": {}}
MEANINGS = {
    "real_only": "real images only",
    "randaugment": "real images under RandAugment",
    "cutmix": "real images under CutMix",
    "reweighted": "real images with the errors drawn more often",
    "groupdro": "real images with groups drawn equally often; worst group 0.01",
    "random_edits": "real images and accepted edits, each drawn equally often",
    "reinforced": "real images and accepted edits, drawn by the weakness found",
    "oracle": "real images without the weakness: an upper bound",
    "recombine": "real images under cut and paste",
    "dfr": "the head alone, fitted on real images in balance over class and attributes",
    "dfr_edits": "the head alone, fitted on real images and accepted edits in balance over class and attributes",
    "dpe": "prototypes in the head's place, fitted on real images in balance over the classes",
    "projection": "the head alone, fitted on real images without the directions in which edits move them",
}


def arms(value: object, **others: object) -> ReinforceConfig:
    return ReinforceConfig.model_validate({"arms": value, **others})


def test_a_list_names_presets_and_is_written_back_as_a_list() -> None:
    config = arms(["cutmix", "reinforced"])
    assert config.arms == {"cutmix": ArmConfig(mix="cutmix"), "reinforced": ArmConfig(edits=EditsConfig(by="weakness"))}
    assert config.model_dump(mode="json")["arms"] == ["cutmix", "reinforced"]
    schema = ReinforceConfig.model_json_schema()["properties"]["arms"]
    assert schema["anyOf"][0]["items"]["enum"] == list(PRESETS)
    with pytest.raises(ValidationError, match=r"'unheard_of' is no preset.*real_only.*map"):
        arms(["unheard_of"])


def test_in_a_map_a_presets_name_starts_from_it_and_another_from_nothing() -> None:
    config = arms(
        {"real_only": None, "reinforced": {"edits": {"emphasis": 2}, "losses": {"distillation": 3}}, "mine": {}}
    )
    assert config.arms["real_only"] == config.arms["mine"] == ArmConfig()
    assert config.arms["reinforced"] == ArmConfig(
        edits=EditsConfig(by="weakness", emphasis=2), losses=LossConfig(distillation=3)
    )
    assert arms({"reinforced": {"edits": None}}).arms["reinforced"].is_baseline


@pytest.mark.parametrize(
    "value",
    [
        {"reinforced": {"edits": None}, "cutmix": None},
        {"mine": {"edits": {"by": "alike", "replay_ratio": 0.25}, "trained": "head"}, "reinforced": None},
        ["real_only", "oracle"],
    ],
)
def test_what_is_written_loads_as_the_same_arms(value: object) -> None:
    config = arms(value)
    assert arms(config.model_dump(mode="json")["arms"]).arms == config.arms


def test_a_run_file_may_name_its_own_arms_and_round_trips() -> None:
    run = load_run_file(DEMO, ["reinforce.arms={mine: {edits: {by: alike}, mix: cutmix}}", "reinforce.ships=mine"])
    assert run.reinforce.arms == {"mine": ArmConfig(edits=EditsConfig(), mix="cutmix")}
    assert "mine" in dump_run_file(run)


def test_an_arm_that_recombines_keeps_no_answers_of_the_base_classifier_unless_it_says_so() -> None:
    both: dict[str, object] = {"edits": {"by": "weakness"}, "augment": "recombine"}
    config = arms({"reinforced": None, "both": both, "own": {**both, "losses": {"distillation": 1}}}, distillation=3)
    assert [config.of_arm(name).distillation for name in ("reinforced", "both", "own")] == [3, 0, 1]


def test_an_arms_own_settings_hold_for_it_alone() -> None:
    config = arms({"real_only": None, "soft": {"edits": {"replay_ratio": 0.2}, "losses": {"consistency": 0.5}}})
    assert (config.of_arm("soft").replay_ratio, config.of_arm("soft").consistency) == (0.2, 0.5)
    assert config.of_arm("real_only") == config


@pytest.mark.parametrize(("name", "meaning"), MEANINGS.items())
def test_the_words_of_an_arm_follow_from_its_settings(name: str, meaning: str) -> None:
    assert PRESETS[name].meaning == meaning


def test_own_settings_are_said() -> None:
    arm = ArmConfig(edits=EditsConfig(by="weakness", emphasis=2), losses=LossConfig(distillation=3), trained="lora")
    assert arm.meaning == f"{MEANINGS['reinforced']}; distillation 3; emphasis 2; trained: lora"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fit": "dfr", "mix": "cutmix"}, "fit: dfr takes no steps: beside it only edits"),
        ({"fit": "dpe", "edits": {"by": "weakness"}}, "fit: dpe takes no steps"),
        ({"fit": "dfr", "images": "oracle"}, "fit: dfr takes no steps"),
        ({"fit": "projection"}, "fit: projection needs pairs of edits and placebos"),
    ],
)
def test_a_head_is_fitted_with_edits_and_nothing_else(settings: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        arms({"mine": settings})


def test_a_fitted_head_without_edits_is_a_baseline_and_one_with_edits_may_ship() -> None:
    assert [name for name, arm in PRESETS.items() if arm.fit and arm.is_baseline] == ["dfr", "dpe"]
    assert arms(["dfr_edits"], ships="dfr_edits").ships == "dfr_edits"


@pytest.mark.parametrize("name", ["patient", "Mine", "a b", "../x"])
def test_a_name_that_cannot_be_a_folder_or_a_result_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="cannot be the name of an arm"):
        arms({name: {}})


def test_the_arm_that_ships_must_be_one_and_no_bound() -> None:
    with pytest.raises(ValidationError, match=r"ships names 'reinforcd'.*real_only, reinforced"):
        ReinforceConfig(ships="reinforcd")
    with pytest.raises(ValidationError, match="an upper bound never ships"):
        arms(["oracle"], ships="oracle")


def test_the_page_shows_every_arm_with_its_own_colour_and_mark() -> None:
    looks = looks_of(NO_RESULTS, arms(list(PRESETS)))
    assert list(looks) == [BASE, *PRESETS]
    assert [look.css for look in looks.values()] == [BASE, *PRESETS]
    assert len({look.mark for look in looks.values()}) == len(looks)
    assert looks["real_only"].mark == "square"


def test_arms_of_ones_own_take_the_colours_that_are_free_and_share_none_with_the_same_mark() -> None:
    many = {f"arm{number}": {"trained": "head"} for number in range(12)}
    looks = looks_of(NO_RESULTS, arms({**many, "cutmix": None}, ships="arm3"))
    assert looks["arm3"].css == "reinforced"
    assert looks["cutmix"].css == "cutmix"
    assert {look.css for look in looks.values()} <= set(COLOURS)
    assert len({(look.css, look.mark) for look in looks.values()}) == len(looks)


def test_an_arm_that_left_the_run_file_keeps_its_results() -> None:
    looks = looks_of({"training": {"arms": {"gone": {}}}, "accuracy_biased": {}}, arms(["real_only"]))
    assert looks["gone"].meaning == "no longer in the run file"
