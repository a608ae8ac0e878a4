"""Sequences of edits: what a turn changes, whose picture it is drawn on, and what is given up."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from engine.sample import Edit, Rejection, Sample, by_turn, draw_turns

SOURCE = Sample(
    key="a", source_key="a", role="source", image=b"source", label=0, class_name="boot", split="train",
    caption="a blue boot on grass",
)  # fmt: skip
FIRST = Edit(
    kind="background", before="grass", after="snow", instruction="put it on snow", caption="a blue boot on snow"
)
COLOUR = Edit(kind="colour", before="blue", after="red", instruction="make it red", caption="a red boot on snow")
LIGHT = Edit(
    kind="lighting", before="day", after="dusk", instruction="make it dusk", caption="a red boot on snow at dusk"
)


def edited(key: str, edit: Edit, image: bytes = b"") -> Sample:
    return replace(SOURCE, key=key, role="counterfactual", image=image, edit=edit)


def drawn_over(batch: Sequence[Sample], wanted: Sequence[tuple[Sample, Edit]]) -> Mapping[str, Sample | Rejection]:
    """Draw an edit as the bytes of the picture before and what the edit puts in."""
    pictures = {sample.key: bytes(sample.image) for sample in batch}
    return {
        sample.key: replace(sample, image=pictures[sample.drawn_on] + f" {edit.after}".encode())
        for sample, edit in wanted
    }


def test_a_sequence_names_all_turns_and_its_own_change_is_that_of_the_last() -> None:
    both = FIRST.then(COLOUR)
    assert (both.kind, both.before, both.after) == ("background+colour", "grass + blue", "snow + red")
    assert (both.turn, both.instruction, both.caption) == (2, "make it red", "a red boot on snow")
    assert both.own_change == replace(COLOUR, turn=2)
    three = both.then(LIGHT)
    assert (three.kind, three.turn, three.own_change) == ("background+colour+lighting", 3, replace(LIGHT, turn=3))
    assert by_turn(three.kind, three.after) == [("background", "snow"), ("colour", "red"), ("lighting", "dusk")]
    assert FIRST.own_change is FIRST


def test_a_value_of_one_turn_is_one_value_whatever_it_holds() -> None:
    assert by_turn("background", "snow + ice") == [("background", "snow + ice")]
    placebo = replace(FIRST, kind="placebo", before="salt + pepper on a table", turn=2)
    assert placebo.own_change == placebo


def test_each_turn_is_drawn_on_the_picture_before_it_in_any_order() -> None:
    three = edited("a_cf00_t3", FIRST.then(COLOUR).then(LIGHT))
    batch = [SOURCE, three, edited("a_cf00_t2", FIRST.then(COLOUR)), edited("a_cf00", FIRST)]
    assert [sample.drawn_on for sample in batch] == ["a", "a_cf00_t2", "a_cf00", "a"]
    found = list(draw_turns("editor", batch, drawn_over))
    assert [item.key for item in found] == [sample.key for sample in batch]
    assert [item.image for item in found if isinstance(item, Sample)] == [
        b"source", b"source snow red dusk", b"source snow red", b"source snow",
    ]  # fmt: skip


def test_what_follows_on_an_edit_without_a_picture_is_given_up_with_all_that_follows_on_it() -> None:
    early = replace(edited("a_cf00", replace(FIRST, strategy="other")))
    batch = [
        SOURCE, early, edited("a_cf00_t2", FIRST.then(COLOUR)), edited("a_cf00_t3", FIRST.then(COLOUR).then(LIGHT)),
    ]  # fmt: skip
    source, first, *later = draw_turns("editor", batch, drawn_over)
    assert (source, first) == (SOURCE, early)
    assert [item.reason for item in later if isinstance(item, Rejection)] == ["no_turn_before"] * 2
    assert [item.detail for item in later if isinstance(item, Rejection)] == [
        "there is no picture of the turn before, a_cf00",
        "there is no picture of the turn before, a_cf00_t2",
    ]


def test_an_edit_is_held_against_the_placebo_of_as_many_turns() -> None:
    one, two = edited("a_cf00", FIRST), edited("a_cf00_t2", FIRST.then(COLOUR))
    same = Edit(kind="placebo", before="x", after="x", instruction="", caption=SOURCE.caption)
    placebo, second = (edited("p", replace(same, turn=turn)) for turn in (1, 2))
    assert one.control == placebo.control != two.control == second.control
