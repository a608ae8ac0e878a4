"""The strict reader of what a language model answers when asked for an edit."""

import re
from dataclasses import dataclass

from actors.language.answers import BadReply
from engine.sample import EditKind
from engine.untrusted_json import loads_outside

KEYS = ("before", "after", "caption", "instruction")
MAX_PHRASE, MAX_CAPTION, MAX_INSTRUCTION = 100, 300, 200  # characters; a CLIP text tower reads about 300

# These kinds change words of the caption; the others add what it does not mention ("clear weather" to "fog").
WORD_KINDS: frozenset[EditKind] = frozenset({"background", "colour", "object", "adjective"})

FENCE = re.compile(r"\A```(?:json)?\s*\n(.*?)\n?\s*```\Z", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """Hold one valid answer: `before` becomes `after`, which gives `caption`; `instruction` says so as a command."""

    before: str
    after: str
    caption: str
    instruction: str


def parse_reply(text: str, *, caption: str, class_name: str, kind: EditKind) -> Reply | BadReply:
    """Return the edit in a reply that is exactly one JSON object (a code fence around it is tolerated)."""
    text = text.strip()
    fenced = FENCE.match(text)
    try:
        value = loads_outside(fenced.group(1) if fenced else text, _unique)
    except _DuplicateKeyError as error:
        return BadReply(reason="reply_duplicate_key", detail=f"the key {error} is there twice")
    except ValueError as error:
        return BadReply(reason="reply_not_json", detail=f"{error}; wanted one JSON object")
    if not isinstance(value, dict):
        return BadReply(reason="reply_not_object", detail=f"a JSON {type(value).__name__} instead of an object")
    reply = _typed(value)
    if isinstance(reply, BadReply):
        return reply
    return check_edit(reply, caption=caption, class_name=class_name, kind=kind) or reply


class _DuplicateKeyError(Exception):
    pass


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise _DuplicateKeyError(repr(key))
        result[key] = value
    return result


def _typed(value: dict[str, object]) -> Reply | BadReply:
    if unknown := sorted(set(value) - set(KEYS)):
        return BadReply(reason="reply_unknown_key", detail=f"unknown keys {unknown}; wanted {list(KEYS)}")
    if missing := [key for key in KEYS if key not in value]:
        return BadReply(reason="reply_missing_key", detail=f"missing keys {missing}")
    texts: dict[str, str] = {}
    for key in KEYS:
        item = value[key]
        if not isinstance(item, str):
            return BadReply(reason="reply_wrong_type", detail=f"{key} is a {type(item).__name__}; wanted a string")
        if not item.strip():
            return BadReply(reason="reply_empty_value", detail=f"{key} is empty")
        texts[key] = " ".join(item.split())
    limits = {"before": MAX_PHRASE, "after": MAX_PHRASE, "caption": MAX_CAPTION, "instruction": MAX_INSTRUCTION}
    for key, limit in limits.items():
        if len(texts[key]) > limit:
            return BadReply(reason="reply_too_long", detail=f"{key} has {len(texts[key])} characters; at most {limit}")
    return Reply(**texts)


def check_edit(reply: Reply, *, caption: str, class_name: str, kind: EditKind) -> BadReply | None:
    """Return what is wrong with an edit of `caption`, None when nothing is."""
    before, after = plain(reply.before), plain(reply.after)
    old, new = plain(caption), plain(reply.caption)
    if after == before:
        return BadReply(reason="edit_changes_nothing", detail=f"before and after are both {reply.before!r}")
    if new == old:
        return BadReply(reason="edit_changes_nothing", detail="the new caption is the old one")
    if kind in WORD_KINDS and not count_phrase(before, old):
        return BadReply(reason="edit_before_not_in_caption", detail=f"{reply.before!r} is not in {caption!r}")
    if not count_phrase(after, new):
        return BadReply(reason="edit_after_not_in_caption", detail=f"{reply.after!r} is not in {reply.caption!r}")
    return _check_class_word(before, after, old, new, class_name)


def _check_class_word(before: str, after: str, old: str, new: str, class_name: str) -> BadReply | None:
    """Return a BadReply when the edit reaches into the class word: the label would no longer be true."""
    word = plain(class_name)
    for name, phrase in (("before", before), ("after", after)):
        if count_phrase(word, phrase):
            return BadReply(reason="edit_touches_class", detail=f"{name} {phrase!r} holds the class word {word!r}")
    replaced = re.sub(_pattern(before), lambda _: after, old)
    for name, text in (("the caption after the change", replaced), ("the new caption", new)):
        if count_phrase(word, text) != count_phrase(word, old):
            return BadReply(
                reason="edit_touches_class",
                detail=f"the class word {word!r} is {count_phrase(word, old)} times in the caption, "
                f"{count_phrase(word, text)} times in {name} {text!r}",
            )
    return None


def count_phrase(phrase: str, text: str) -> int:
    """Return how often a phrase stands in a text as whole words."""
    return len(re.findall(_pattern(phrase), text))


def _pattern(phrase: str) -> str:
    return rf"(?<!\w){re.escape(phrase)}(?!\w)"


def plain(text: str) -> str:
    """Return a text as it is compared: lower case, underscores as spaces, single spaces."""
    return " ".join(text.casefold().replace("_", " ").split())
