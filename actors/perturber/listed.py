"""Edits of kinds whose values the run file lists: made from the caption by rule, without a language model."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from actors.language.answers import BadReply
from actors.perturber.interviews import Request, check_turn
from actors.perturber.replies import Reply, check_edit
from engine.names import count_phrase, phrase_pattern, plain
from engine.runfile.perturber import REMOVAL
from engine.sample import EditKind, content_seed

# What leads over to a thing in a caption, and goes with it.
_LEADING = (
    r"(?:,?\s*\b(?:and|with|beside|by|near|next to|in front of|behind|holding)\s+)?(?:\b(?:an?|the|some|one)\s+)?"
)


def listed_replies(
    requests: Sequence[Request], values: Mapping[EditKind, Sequence[str]], seed: int
) -> dict[tuple[str, ...], Reply | BadReply]:
    """Return the edit of each request, by its keys: the value that the caption names becomes another one of its kind.

    The others come in an order drawn by source and kind, a wanted one first; of one source and kind none comes twice.
    A removal takes away one of the things that the caption names, each at most once.
    """
    replies: dict[tuple[str, ...], Reply | BadReply] = {}
    taken: dict[tuple[str, EditKind], int] = {}
    for request in requests:
        group = request.source.key, request.kind
        place = taken[group] = taken.get(group, -1) + 1
        replies[request.keys] = _reply(request, place, values[request.kind], seed)
    return replies


def _reply(request: Request, place: int, values: Sequence[str], seed: int) -> Reply | BadReply:
    caption = plain(request.source.caption)
    named = sorted((value for value in values if count_phrase(plain(value), caption)), key=len, reverse=True)
    if not named:
        return BadReply(reason="no_listed_value", detail=f"{caption!r} names none of {', '.join(values)}")
    rng = np.random.default_rng(content_seed(seed, f"{request.source.key}/{request.kind}/values"))
    gone = request.replaced
    choices = (
        named if request.kind == REMOVAL else [each for each in values if each not in named and plain(each) not in gone]
    )
    drawn = [choices[index] for index in rng.permutation(len(choices))]
    if request.wanted in drawn:
        drawn = [request.wanted, *(value for value in drawn if value != request.wanted)]
    if place >= len(drawn):
        return BadReply(reason="no_listed_value", detail=f"there are {len(drawn)} {request.kind} edits of {caption!r}")
    reply = (
        _removal(caption, drawn[place])
        if request.kind == REMOVAL
        else _change(request, caption, named[0], drawn[place])
    )
    wrong = check_edit(reply, caption=request.source.caption, words=request.words, kind=request.kind)
    return check_turn(request, wrong or reply)


def _change(request: Request, caption: str, before: str, after: str) -> Reply:
    edited = phrase_pattern(plain(before), caption).sub(lambda _: after, caption)
    return Reply(before=before, after=after, caption=edited, instruction=f"change the {request.kind} to {after}")


def _removal(caption: str, thing: str) -> Reply:
    pattern = re.compile(_LEADING + phrase_pattern(plain(thing), caption).pattern)
    edited = " ".join(pattern.sub("", caption).split())
    return Reply(before=thing, after=f"no {thing}", caption=edited, instruction=f"remove the {thing}")
