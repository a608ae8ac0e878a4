"""What a language model answers when asked for an edit: found among its words, and strictly checked."""

from collections.abc import Sequence
from dataclasses import dataclass

from actors.language.answers import BadReply
from actors.language.json_objects import DuplicateKeyError, json_objects
from engine.names import count_phrase, find_class, phrase_pattern, plain
from engine.runfile.perturber import REMOVAL
from engine.sample import EditKind

KEYS = ("before", "after", "caption", "instruction")
MAX_PHRASE, MAX_CAPTION, MAX_INSTRUCTION = 100, 300, 200  # characters; a CLIP text tower reads about 300

# These kinds change words of the caption; the others add what it does not mention ("clear weather" to "fog").
WORD_KINDS: frozenset[EditKind] = frozenset({"background", "colour", "object", "adjective", REMOVAL})


@dataclass(frozen=True, kw_only=True)
class Reply:
    """Hold one valid answer: `before` becomes `after`, which gives `caption`; `instruction` says so as a command."""

    before: str
    after: str
    caption: str
    instruction: str


def parse_reply(text: str, *, caption: str, words: Sequence[str], kind: EditKind) -> Reply | BadReply:
    """Return the edit of the one object in a reply that has the four keys; what is around it does not count.

    `words` are those of the class. Several objects with the four keys must agree. Other keys are left out.
    """
    try:
        objects = json_objects(text)
    except DuplicateKeyError as error:
        return BadReply(reason="reply_duplicate_key", detail=str(error))
    except ValueError as error:
        return BadReply(reason="reply_not_json", detail=f"{error}; wanted one with the keys {', '.join(KEYS)}")
    replies = {_typed(value) for value in objects if set(KEYS) <= set(value)}
    if not replies:
        missing = min(([key for key in KEYS if key not in value] for value in objects), key=len)
        return BadReply(reason="reply_missing_key", detail=f"missing keys {missing}")
    if len(replies) > 1:
        return BadReply(reason="reply_ambiguous", detail=f"{len(replies)} edits that differ; wanted one")
    [reply] = replies
    if isinstance(reply, BadReply):
        return reply
    return check_edit(reply, caption=caption, words=words, kind=kind) or reply


def _typed(value: dict[str, object]) -> Reply | BadReply:
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


def check_edit(reply: Reply, *, caption: str, words: Sequence[str], kind: EditKind) -> BadReply | None:
    """Return what is wrong with an edit of `caption`, None when nothing is.

    A caption that does not name the class by one of its `words` does not tell whether the edit replaces it: such an
    edit passes, and the report counts these captions.
    """
    before, after = plain(reply.before), plain(reply.after)
    old, new = plain(caption), plain(reply.caption)
    if after == before:
        return BadReply(reason="edit_changes_nothing", detail=f"before and after are both {reply.before!r}")
    if new == old:
        return BadReply(reason="edit_changes_nothing", detail="the new caption is the old one")
    if kind in WORD_KINDS and not count_phrase(before, old):
        return BadReply(reason="edit_before_not_in_caption", detail=f"{reply.before!r} is not in {caption!r}")
    if kind == REMOVAL and count_phrase(before, new):
        return BadReply(reason="edit_removes_nothing", detail=f"{reply.before!r} is still in {reply.caption!r}")
    if kind != REMOVAL and not count_phrase(after, new):
        return BadReply(reason="edit_after_not_in_caption", detail=f"{reply.after!r} is not in {reply.caption!r}")
    return _check_class_word(before, after, old, new, words)


def _check_class_word(before: str, after: str, old: str, new: str, words: Sequence[str]) -> BadReply | None:
    """Return a BadReply when the edit reaches into the class word: the label would no longer be true."""
    for name, phrase in (("before", before), ("after", after)):
        if found := find_class(phrase, words):
            return BadReply(reason="edit_touches_class", detail=f"{name} {phrase!r} holds the class word {found[0]!r}")
    replaced = phrase_pattern(before, old).sub(lambda _: after, old)
    wanted = len(find_class(old, words))
    for name, text in (("the caption after the change", replaced), ("the new caption", new)):
        if (count := len(find_class(text, words))) != wanted:
            return BadReply(
                reason="edit_touches_class",
                detail=f"the class {words[0]!r} is named {wanted} times in the caption, {count} in {name} {text!r}",
            )
    return None
