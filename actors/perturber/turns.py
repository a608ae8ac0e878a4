"""Later turns of edits: what is asked about the caption that an edit leads to, and the sequence that it makes."""

from dataclasses import asdict, replace

from actors.language.answers import BadReply
from actors.perturber.interviews import Request
from actors.perturber.replies import Reply
from engine.sample import NO_TURN_BEFORE, Edit, turn_key


def edit_of(request: Request, reply: Reply) -> Edit:
    """Return the edit of a reply at severity 1, of a later turn the sequence of all turns."""
    change = Edit(kind=request.kind, **asdict(reply))
    return change if request.made is None else request.made.then(change)


def next_turn(request: Request, answer: Reply | BadReply | None) -> Request | None:
    """Return what is asked on top of an edit, None where no turn follows. What follows on no edit cannot be asked."""
    if not request.later:
        return None
    kind, *later = request.later
    made = edit_of(request, answer) if isinstance(answer, Reply) else None
    turn = request.turn + 1
    return replace(
        request,
        source=replace(request.source, key=request.keys[0], caption=made.caption if made else ""),
        kind=kind,
        keys=tuple(turn_key(key.removesuffix(turn_key("", request.turn)), turn) for key in request.keys),
        wanted=None,
        later=tuple(later),
        turn=turn,
        made=made,
    )


def no_turn_before(request: Request) -> BadReply:
    """Return the answer to a request whose turn before failed."""
    return BadReply(reason=NO_TURN_BEFORE, detail=f"the turn before has no edit on which {request.kind} could follow")
