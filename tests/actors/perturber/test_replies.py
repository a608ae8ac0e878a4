import json

import pytest

from actors.language.answers import BadReply
from actors.perturber.prompts import system_prompt, user_prompt
from actors.perturber.replies import Reply, parse_reply
from engine.sample import EditKind

CAPTION = "a photo of a red sneaker on grass"
GOOD = {
    "before": "grass",
    "after": "sand",
    "caption": "a photo of a red sneaker on sand",
    "instruction": "put the sneaker on sand",
}


def parse(value: object, kind: EditKind = "background", **context: str) -> Reply | BadReply:
    text = value if isinstance(value, str) else json.dumps(value)
    return parse_reply(text, **{"caption": CAPTION, "class_name": "sneaker", **context}, kind=kind)


def reason(value: object, kind: EditKind = "background", **context: str) -> str:
    reply = parse(value, kind, **context)
    assert isinstance(reply, BadReply), reply
    return reply.reason


def test_a_good_reply_is_read() -> None:
    assert parse(GOOD) == Reply(**GOOD)


@pytest.mark.parametrize("fence", ["```json\n{}\n```", "```\n{}\n```", "\n  {}  \n"])
def test_a_code_fence_is_tolerated(fence: str) -> None:
    assert parse(fence.replace("{}", json.dumps(GOOD))) == Reply(**GOOD)


@pytest.mark.parametrize(
    "text",
    ["", "sure, here it is", json.dumps(GOOD) * 2, "Here: " + json.dumps(GOOD), json.dumps(GOOD)[:-1], "[" * 100_000],
)
def test_anything_around_the_object_is_refused(text: str) -> None:
    assert reason(text) == "reply_not_json"


def test_other_json_is_refused() -> None:
    assert reason([GOOD]) == "reply_not_object"
    assert reason(json.dumps(GOOD)[:-1] + ', "after": "mud"}') == "reply_duplicate_key"
    assert reason({**GOOD, "why": "fun"}) == "reply_unknown_key"
    assert reason({key: GOOD[key] for key in ("before", "after")}) == "reply_missing_key"
    assert reason({**GOOD, "after": ["sand"]}) == "reply_wrong_type"
    assert reason({**GOOD, "instruction": " "}) == "reply_empty_value"
    assert reason({**GOOD, "caption": "a photo of a red sneaker on sand " * 20}) == "reply_too_long"


def test_an_edit_must_change_something() -> None:
    assert reason({**GOOD, "after": "Grass"}) == "edit_changes_nothing"
    assert reason({**GOOD, "caption": CAPTION}) == "edit_changes_nothing"


def test_before_must_stand_in_the_caption_as_words() -> None:
    assert reason({**GOOD, "before": "gravel"}) == "edit_before_not_in_caption"
    assert reason({**GOOD, "before": "gra"}) == "edit_before_not_in_caption"
    assert reason({**GOOD, "after": "mud"}) == "edit_after_not_in_caption"


def test_weather_may_change_what_the_caption_does_not_say() -> None:
    edit = {**GOOD, "before": "clear weather", "after": "fog", "caption": CAPTION + " in fog"}
    assert isinstance(parse(edit, "weather"), Reply)
    # `after` is what the weakness table counts by: it must be what the picture is of.
    assert reason({**edit, "after": "bag on sand"}, "weather") == "edit_after_not_in_caption"
    assert reason(edit, "background") == "edit_before_not_in_caption"


@pytest.mark.parametrize(
    "change",
    [
        {"before": "red sneaker", "after": "blue boot", "caption": "a photo of a blue boot on grass"},
        {"after": "a sneaker shop", "caption": "a photo of a red sneaker on a sneaker shop"},
        {"caption": "a photo of a red boot on sand"},
        {"caption": "a photo of two sneakers on sand, sneaker and sneaker"},
    ],
)
def test_the_class_word_is_not_to_be_touched(change: dict[str, str]) -> None:
    assert reason({**GOOD, **change}) == "edit_touches_class"


def test_part_of_a_class_of_two_words_is_not_to_be_touched() -> None:
    edit = {"before": "golden", "after": "black", "caption": "a black retriever", "instruction": "make it black"}
    found = parse(edit, "colour", caption="a golden retriever", class_name="golden_retriever")
    assert isinstance(found, BadReply)
    assert found.reason == "edit_touches_class"


def test_an_object_edit_may_change_another_object() -> None:
    edit = {
        "before": "ball",
        "after": "bottle",
        "caption": "a sneaker next to a bottle",
        "instruction": "make the ball a bottle",
    }
    assert isinstance(parse(edit, "object", caption="a sneaker next to a ball"), Reply)


def test_a_class_that_the_caption_does_not_name_is_no_obstacle() -> None:
    assert isinstance(parse(GOOD, class_name="n04254777"), Reply)


def test_the_user_message_has_the_form_that_the_zoo_is_trained_on() -> None:
    assert user_prompt("a cat", "cat", "colour") == "caption: a cat\nclass: cat\nchange: colour"


@pytest.mark.parametrize("kind", ["background", "colour", "object", "weather", "lighting", "domain", "viewpoint"])
def test_the_example_in_the_system_message_is_itself_valid(kind: EditKind) -> None:
    system = system_prompt(kind, "sneaker")
    assert '"sneaker"' in system
    example = parse_reply(
        system.splitlines()[-1], caption="a photo of a red bicycle on a road", class_name="bicycle", kind=kind
    )
    assert isinstance(example, Reply)
