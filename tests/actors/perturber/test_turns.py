"""Edits of several turns: which are asked for, about which caption, and what becomes of those that fail."""

from collections.abc import Mapping

import pytest
import torch
from pydantic import ValidationError
from tiny_models import jpeg

from actors.perturber.interviews import Request, check_turn, make_requests
from actors.perturber.perturber import Perturber
from actors.perturber.replies import Reply
from actors.perturber.turns import next_turn
from engine.runfile.perturber import PerturberConfig
from engine.sample import Rejection, Sample

VALUES = {"background": ["grass", "snow"], "colour": ["red", "blue", "green"]}
CAPTION = "a photo of a red sneaker on grass"


def source(caption: str = CAPTION) -> Sample:
    return Sample(
        key="a", source_key="a", role="source", image=jpeg(), label=3, class_name="sneaker", split="train",
        caption=caption, attributes={"background": "grass"},
    )  # fmt: skip


def config(**changes: object) -> PerturberConfig:
    settings = {"edits": {"background": 1}, "values": VALUES, "turns": {"background": ["colour"]}, **changes}
    return PerturberConfig.model_validate(settings)


def perturbed(caption: str = CAPTION, **changes: object) -> dict[str, Sample | Rejection]:
    stage = Perturber(config(**changes), torch.device("cpu"), name="perturber", seed=7, offline=True)
    return {item.key: item for item in stage([source(caption)])}


def reply(before: str, after: str) -> Reply:
    return Reply(before=before, after=after, caption=CAPTION.replace(before, after), instruction="change it")


def test_an_edit_is_followed_by_another_on_top_of_it_and_the_placebo_by_one_of_two_turns() -> None:
    found = perturbed()
    assert list(found) == ["a", "a_placebo", "a_placebo_t2", "a_cf00", "a_cf00_t2"]
    first, second = found["a_cf00"], found["a_cf00_t2"]
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    assert first.edit is not None
    assert second.edit is not None
    assert (first.edit.kind, first.edit.turn, first.edit.caption) == (
        "background", 1, "a photo of a red sneaker on snow",
    )  # fmt: skip
    colour = second.edit.own_change.after
    assert colour in ("blue", "green")
    assert (second.edit.kind, second.edit.turn) == ("background+colour", 2)
    assert (second.edit.before, second.edit.after) == ("grass + red", f"snow + {colour}")
    assert second.edit.caption == f"a photo of a {colour} sneaker on snow"
    assert second.edit.instruction == f"change the colour to {colour}"
    # It is a counterfactual of the source.
    assert (second.source_key, second.caption, second.attributes) == ("a", CAPTION, {"background": "grass"})
    placebo = found["a_placebo_t2"]
    assert isinstance(placebo, Sample)
    assert placebo.edit is not None
    assert (placebo.edit.kind, placebo.edit.turn, placebo.drawn_on) == ("placebo", 2, "a_placebo")


def test_edits_without_later_turns_are_as_if_others_had_none() -> None:
    with_turns = perturbed(edits={"background": 1, "colour": 2})
    without = perturbed(edits={"background": 1, "colour": 2}, turns={})
    assert {key: with_turns[key] for key in without} == without
    assert set(with_turns) - set(without) == {"a_cf00_t2", "a_placebo_t2"}


def test_severities_and_editors_share_the_words_of_a_turn() -> None:
    found = perturbed(severities=[0.5, 1.0], strategies={"*": ["one", "two"]})
    turns = [item for key, item in found.items() if key.endswith("_t2") and "placebo" not in key]
    edits = [item.edit for item in turns if isinstance(item, Sample) and item.edit]
    assert [(edit.severity, edit.strategy) for edit in edits] == [
        (0.5, "one"),
        (0.5, "two"),
        (1.0, "one"),
        (1.0, "two"),
    ]
    assert len({(edit.after, edit.caption) for edit in edits}) == 1
    assert [key for key in found if "placebo" in key] == [
        "a_placebo_one", "a_placebo_one_t2", "a_placebo_two", "a_placebo_two_t2",
    ]  # fmt: skip


def test_a_turn_of_the_same_kind_brings_no_value_back() -> None:
    values = {"background": ["grass", "snow", "sand"]}
    for key in "abcdefgh":
        (request,) = make_requests(source(), config(turns={"background": ["background"]}, values=values), ord(key))
        later = next_turn(request, reply("grass", "snow"))
        assert later is not None
        assert later.replaced == {"grass"}
    found = perturbed(turns={"background": ["background"]}, values=values)["a_cf00_t2"]
    assert isinstance(found, Sample)
    assert found.edit is not None
    assert found.edit.own_change.after in ("snow", "sand")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(reply("grass", "snow + ice"), "edit_holds_joint"), (reply("snow", "grass"), "edit_changes_nothing")],
)
def test_an_answer_that_cannot_be_part_of_a_sequence_is_refused(answer: Reply, reason: str) -> None:
    grounds = {"background": ["grass", "snow"]}
    (first,) = make_requests(source(), config(turns={"background": ["background"]}, values=grounds), 0)
    second = next_turn(first, reply("grass", "snow"))
    assert isinstance(second, Request)
    assert getattr(check_turn(second, answer), "reason", None) == reason
    (alone,) = make_requests(source(), config(turns={}, values=grounds), 0)
    assert check_turn(alone, answer) is answer


def test_every_turn_after_one_that_failed_is_given_up_and_counted() -> None:
    found = perturbed("a photo of a red sneaker on the moon", turns={"background": ["colour", "background"]})
    reasons = {key: item.reason for key, item in found.items() if isinstance(item, Rejection)}
    assert reasons == {
        "a_cf00": "no_listed_value", "a_cf00_t2": "no_turn_before", "a_cf00_t3": "no_turn_before",
    }  # fmt: skip


def test_a_third_turn_follows_on_the_second() -> None:
    found = perturbed(turns={"background": ["colour", "colour"]})
    third = found["a_cf00_t3"]
    assert isinstance(third, Sample)
    assert third.edit is not None
    assert third.edit.kind == "background+colour+colour"
    assert third.drawn_on == "a_cf00_t2"
    assert set(third.edit.after.split(" + ")[1:]) == {"blue", "green"}


def test_edits_and_placebos_of_all_turns_are_counted() -> None:
    two = config(edits={"background": 2, "colour": 1}, strategies={"background": ["one", "two"], "*": ["two", "three"]})
    assert (two.num_edits(), two.num_edits("one"), two.num_edits("three")) == (10, 4, 1)
    assert [two.num_placebos(name) for name in ("one", "two", "three", None)] == [2, 2, 1, 5]
    assert two.asked == {"background": 2, "colour": 3}
    assert config(placebo=False).num_placebos() == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"turns": {"colour": ["background"]}}, r"turns\.colour: `edits` asks for no such edit; it has background"),
        ({"turns": {"background": ["color"]}}, r"turns\.color: no kind has this name, did you mean colour\?"),
        ({"turns": {"background": ["colour", "weather"]}}, "edits of kind weather are invented by a language model"),
        ({"kinds": {"a+b": "anything"}}, r"kinds\.a\+b: \+ joins the kinds of several turns"),
        ({"turns": {}}, r"values\.colour: `edits` asks for no such edit"),
    ],
)
def test_turns_that_cannot_be_made_are_refused(changes: Mapping[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config(**changes)
