"""Replies of a language model: in any noise the edit that is meant, or a refusal, and never a replaced class."""

import json
import unicodedata
from dataclasses import asdict
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from actors.language.answers import BadReply
from actors.perturber.replies import KEYS, Reply, parse_reply
from engine.names import class_words

CAPTION, WORDS = "a photo of a red sneaker on grass", ("sneaker",)
PLACES = st.text(st.characters(categories=["L", "Nd"]), min_size=1, max_size=8) | st.sampled_from(
    ["sand", "the moon, }", 'a "road"', "{", "wet, ]", "\\", "caf\u00e9", "//", "Sand\u2019s edge", "```", "<think>"]
)
# None of them is an edit; much of it is half of one.
PIECES = st.sampled_from(
    [
        *('{"', "{", "}", '"', "[", "]", ",", ":", "\\", "'", "```", "```json\n", "\n", "\ufeff", "Here is the JSON:"),
        *("<think>", "</think>", "</s>", "<|im_end|>", "null", "// no", "{}", '{"before": "grass"}', '{"edit": '),
        *('"before": "grass", "after": "mud"', '{"after": "mud",', '"caption": "a red boot"}', '{"a": [1, 2,],}', ",}"),
        '{"before": 1, "after": 2, "caption": 3, "instruction": 4}',
    ]
)
NOISE = st.lists(PIECES | st.text(max_size=6), max_size=8).map("".join)
FORMS = {
    "sneaker": ("sneaker", "sneakers", "Sneaker", "SNEAKERS"),
    "sneakers": ("sneaker", "sneakers"),
    "T-shirt/top": ("t-shirt", "tshirt", "T shirt", "t-shirts", "top"),
    "t_shirt": ("T-shirt", "tshirts", "t shirt"),
    "GoldenRetriever": ("golden retriever", "Golden-Retriever", "golden retrievers"),
    "tench, Tinca tinca": ("tench", "Tinca tinca"),
    "leaf": ("leaf", "leaves"),
    "mice": ("mouse", "mice"),
    "caf\u00e9": ("caf\u00e9", "CAF\u00c9", "caf\u00e9s"),
    "运动鞋": ("运动鞋",),
    "кошка": ("кошка", "кошку", "Кошки"),
}


def edit(place: str) -> dict[str, str]:
    """Return an edit of the caption."""
    place = " ".join(place.split())
    return {
        "before": "grass",
        "after": place,
        "caption": f"a photo of a red sneaker on {place}",
        "instruction": f"put the sneaker on {place}",
    }


def parsed(text: str) -> Reply | BadReply:
    return parse_reply(text, caption=CAPTION, words=WORDS, kind="background")


@given(place=PLACES, before=NOISE, behind=NOISE, indent=st.none() | st.integers(0, 2), ascii_only=st.booleans())
def noise_changes_no_reply(place: str, before: str, behind: str, indent: int | None, *, ascii_only: bool) -> None:
    """Compare a reply in noise with the same reply alone, and with what json finds in all parts of the text."""
    reply = json.dumps(edit(place), indent=indent, ensure_ascii=ascii_only)
    alone, found = parsed(reply), parsed(before + reply + behind)
    assert isinstance(found, BadReply) or found == alone
    if isinstance(found, Reply) and len(before + behind) < 40:
        assert tuple(asdict(found).values()) in set(objects(before + reply + behind))


@given(first=PLACES, second=PLACES, between=NOISE, thought=st.booleans())
def of_two_edits_none_is_taken_by_chance(first: str, second: str, between: str, *, thought: bool) -> None:
    one, other = parsed(json.dumps(edit(first))), parsed(json.dumps(edit(second)))
    between = between.replace("think>", "")
    text = f"{json.dumps(edit(first))}{between}{'</think>' if thought else ''}{json.dumps(edit(second))}"
    found = parsed(text)
    if "<think>" in first + second:
        return
    assert isinstance(found, BadReply) or found == other
    assert thought or isinstance(found, BadReply) or one == other


@given(name=st.sampled_from(sorted(FORMS)), data=st.data(), decomposed=st.booleans(), noise=NOISE)
def a_class_is_never_replaced(name: str, data: st.DataObject, noise: str, *, decomposed: bool) -> None:
    form = data.draw(st.sampled_from(FORMS[name]))
    other = data.draw(st.sampled_from(["boot", "boots", "red boot", "car", "雨伞", "шляпа"]))
    caption = f"a photo of 2 red {form} on grass"
    value = {"before": form, "after": other, "caption": caption.replace(form, other), "instruction": "replace it"}
    if decomposed:
        value = {key: unicodedata.normalize("NFD", text) for key, text in value.items()}
    kind = data.draw(st.sampled_from(["object", "background", "weather"]))
    found = parse_reply(f"{noise}{json.dumps(value)}", caption=caption, words=class_words(name), kind=kind)
    assert isinstance(found, BadReply), found


def objects(text: str) -> list[tuple[str, ...]]:
    """Return the texts of every object with the four keys that json reads from one brace to another."""
    found = []
    starts = [place for place, letter in enumerate(text) if letter == "{"]
    ends = [place for place, letter in enumerate(text) if letter == "}"]
    for start, end in product(starts, ends):
        try:
            value = json.loads(text[start : end + 1])
        except ValueError:
            continue
        if set(KEYS) <= set(value) and all(isinstance(value[key], str) for key in KEYS):
            found.append(tuple(" ".join(value[key].split()) for key in KEYS))
    return found
