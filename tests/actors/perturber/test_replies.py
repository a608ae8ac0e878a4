import json

import pytest

from actors.language.answers import BadReply
from actors.perturber.prompts import system_prompt, user_prompt
from actors.perturber.replies import Reply, parse_reply
from engine.names import class_words
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
    settings = {"caption": CAPTION, "class_name": "sneaker", **context}
    return parse_reply(text, caption=settings["caption"], words=class_words(settings["class_name"]), kind=kind)


def reason(value: object, kind: EditKind = "background", **context: str) -> str:
    reply = parse(value, kind, **context)
    assert isinstance(reply, BadReply), reply
    return reply.reason


def test_a_good_reply_is_read() -> None:
    assert parse(GOOD) == Reply(**GOOD)


TEXT = json.dumps(GOOD)
DRAFT = json.dumps({**GOOD, "after": "mud", "caption": "a photo of a red sneaker on mud"})


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{TEXT}\n```",
        f"```\n{TEXT}\n```",
        f"\n  {TEXT}  \n",
        f"\ufeff{TEXT}",
        f"Here is the JSON:\n{TEXT}",
        f"Sure! {{the edit}} is: ```{TEXT}``` It puts the sneaker on sand.",
        *(f"{TEXT}{end}" for end in ("<|im_end|>", "</s>", "<eos>", "<|eot_id|>", "<|endoftext|>\n\n")),
        f"<think>Maybe {DRAFT}? No.</think>\n\n{TEXT}",
        f"Maybe {DRAFT}? No.\n</think>\n{TEXT}",
        f"[THINK]{DRAFT}[/THINK]{TEXT}",
        TEXT[:-1] + ",}",
        TEXT[:-1] + ', "also": [1, 2,],\n}',
        json.dumps({**GOOD, "why": "fun"}),
        json.dumps({**GOOD, "confidence": 0.9, "more": {"before": "red"}}),
        json.dumps([GOOD]),
        f'{{"kind": "background"}} {TEXT}',
        f"{TEXT}\n\nAgain: {TEXT}",
    ],
)
def test_the_one_object_that_is_meant_is_read(text: str) -> None:
    assert parse(text) == Reply(**GOOD)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        *((text, "reply_not_json") for text in ("", "sure, here it is", TEXT[:-1], "[" * 100_000, "{" * 100_000)),
        *((text, "reply_not_json") for text in (str(GOOD), TEXT.replace('"', "\u201d"), '{"a":' * 20_000, "[1, 2]")),
        (TEXT.replace("{", "{ // an edit\n"), "reply_not_json"),
        (f"<think>{TEXT}", "reply_not_json"),  # cut off before it answers
        (f"{TEXT} or {DRAFT}", "reply_ambiguous"),
        (json.dumps([GOOD, json.loads(DRAFT)]), "reply_ambiguous"),
        (json.dumps({"edit": GOOD}), "reply_missing_key"),
        (TEXT[:-1] + ', "after": "mud"}', "reply_duplicate_key"),
    ],
)
def test_what_could_mean_another_edit_is_refused(text: str, why: str) -> None:
    assert reason(text) == why


def test_a_comma_in_a_text_stays() -> None:
    edit = {**GOOD, "instruction": "put it on sand ,}"}
    assert parse(json.dumps(edit)[:-1] + ",}") == Reply(**edit)


def test_a_model_that_only_thinks_is_told_so() -> None:
    found = parse("<think>A sneaker could stand on sand, or on")
    assert isinstance(found, BadReply)
    assert "raise max_new_tokens" in found.detail


def test_the_content_of_the_object_is_checked() -> None:
    assert reason({key: GOOD[key] for key in ("before", "after")}) == "reply_missing_key"
    assert reason({**GOOD, "after": ["sand"]}) == "reply_wrong_type"
    assert reason({**GOOD, "after": 7}) == "reply_wrong_type"
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


# The edits that a disobedient model makes: class, caption, what replaces its main object, and the new caption.
REPLACED = [
    ("sneakers", "a red sneaker on grass", "sneaker", "boot", "a red boot on grass"),
    ("sneaker", "two sneakers on grass", "sneakers", "boots", "two boots on grass"),
    ("t_shirt", "a red t-shirt on grass", "t-shirt", "coat", "a red coat on grass"),
    ("T-shirt/top", "a red tshirt on grass", "tshirt", "coat", "a red coat on grass"),
    ("T-shirt/top", "a red top on grass", "red top", "red coat", "a red coat on grass"),
    ("GoldenRetriever", "a golden retriever", "golden retriever", "cat", "a cat"),
    ("golden_retriever", "a Golden-Retriever", "Golden-Retriever", "cat", "a cat"),
    ("tench, Tinca tinca", "a tench in a hand", "tench", "carp", "a carp in a hand"),
    ("mouse", "two mice in hay", "mice", "rats", "two rats in hay"),
    ("puppies", "a puppy in hay", "puppy", "kitten", "a kitten in hay"),
    ("caf\u00e9", "a red cafe\u0301", "cafe\u0301", "shop", "a red shop"),
    ("Hund", "ein Schäferhund im Gras", "Schäferhund", "Kater", "ein Kater im Gras"),
    ("运动鞋", "草地上的红色运动鞋", "运动鞋", "靴子", "草地上的红色靴子"),
    ("スニーカー", "芝の上の赤いスニーカー", "スニーカー", "ブーツ", "芝の上の赤いブーツ"),
    ("รองเท้า", "รองเท้าสีแดงบนหญ้า", "รองเท้า", "หมวก", "หมวกสีแดงบนหญ้า"),
    ("кошка", "рыжую кошку на траве", "кошку", "собаку", "рыжую собаку на траве"),
    ("كلب", "الكلب على العشب", "الكلب", "القط", "القط على العشب"),
]


@pytest.mark.parametrize(("name", "caption", "before", "after", "new"), REPLACED)
def test_a_class_is_not_replaced_however_its_name_is_written(
    name: str, caption: str, before: str, after: str, new: str
) -> None:
    edit = {"before": before, "after": after, "caption": new, "instruction": "replace it"}
    assert reason(edit, "object", caption=caption, class_name=name) == "edit_touches_class"


def test_a_class_with_an_id_is_not_replaced_where_its_words_are_given() -> None:
    edit = {"before": "tench", "after": "carp", "caption": "a carp in a hand", "instruction": "make it a carp"}
    words = class_words("n01440764", {"n01440764": ("tench",)})
    found = parse_reply(json.dumps(edit), caption="a tench in a hand", words=words, kind="object")
    assert isinstance(found, BadReply)
    assert found.reason == "edit_touches_class"


@pytest.mark.parametrize(
    ("name", "caption", "before", "after", "new"),
    [
        ("运动鞋", "草地上的红色运动鞋", "草地", "沙滩", "沙滩上的红色运动鞋"),
        ("スニーカー", "芝の上の赤いスニーカー", "芝", "雪", "雪の上の赤いスニーカー"),
        ("รองเท้า", "รองเท้าสีแดงบนหญ้า", "หญ้า", "ทราย", "รองเท้าสีแดงบนทราย"),
        ("운동화", "잔디에 있는 빨간 운동화", "잔디", "모래", "모래에 있는 빨간 운동화"),
        ("Schuh", "ein roter Schuh am Sandstrand", "Strand", "Boden", "ein roter Schuh auf Sandboden"),
        ("Schuh", "ein roter Schuh auf Steinboden", "Stein", "Holz", "ein roter Schuh auf Holzboden"),
        ("sneaker", "a sneaker in \u0130STANBUL", "istanbul", "Ankara", "a sneaker in Ankara"),
        ("sneaker", "a sneaker on the child\u2019s bed", "the child's bed", "grass", "a sneaker on grass"),
        ("sneaker", "a sneaker in a cafe\u0301", "a caf\u00e9", "a shop", "a sneaker in a shop"),
        ("sneakers", "a red sneaker on grass", "grass", "sand", "a red sneaker on sand"),
    ],
)
def test_a_perfect_edit_passes_in_any_script(name: str, caption: str, before: str, after: str, new: str) -> None:
    edit = {"before": before, "after": after, "caption": new, "instruction": "change the ground"}
    assert parse(edit, caption=caption, class_name=name) == Reply(**edit)


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
    example = parse(system.splitlines()[-1], kind, caption="a photo of a red bicycle on a road", class_name="bicycle")
    assert isinstance(example, Reply)
