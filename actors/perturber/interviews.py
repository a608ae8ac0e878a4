"""What a perturber asks for, and which reply each request gets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from actors.language.answers import BadReply
from actors.perturber.replies import Reply, parse_reply
from engine.names import class_words, count_phrase, plain, prompt_word
from engine.runfile.perturber import AllocatedPerturberConfig, PerturberConfig, WantedEdit
from engine.sample import VALUES_JOINT, Edit, EditKind, Sample, by_turn, content_seed

MAX_DETAIL = 2000  # characters of a bad reply that are kept


@dataclass(frozen=True, kw_only=True)
class Request:
    """Ask for one edit of one source, if there is a `wanted` value then rather that.

    `words` name its class, which the prompt calls `word`. `keys` are those of its candidates, one for each of the
    `variants`: a severity, and who draws it. `later` are the kinds of the turns that follow. A request of a later turn
    has what was `made` before, None if that failed, and its `source` the caption of that.
    """

    source: Sample
    kind: EditKind
    variants: tuple[tuple[float, str], ...]
    keys: tuple[str, ...]
    word: str
    words: tuple[str, ...]
    wanted: str | None = None
    later: tuple[EditKind, ...] = ()
    turn: int = 1
    made: Edit | None = None

    @property
    def replaced(self) -> set[str]:
        """Return the values of its kind, plain, that turns before have replaced: none comes back."""
        made = () if self.made is None else by_turn(self.made.kind, self.made.before)
        return {plain(before) for kind, before in made if kind == self.kind}


def make_requests(source: Sample, config: PerturberConfig, seed: int) -> list[Request]:
    """Return what to ask for one source: what the settings say, or what a round's allocation gives its class.

    Keys are {source}_cf00, _cf01, ... counted through the requests, their severities and who draws them.
    """
    if isinstance(config, AllocatedPerturberConfig):
        budget = sum(config.edits.values()) * len(config.severities)
        drawn = draw_edits(
            config.wanted[source.class_name], budget, source.caption, content_seed(seed, f"{source.key}/edits")
        )
    else:
        drawn = [(kind, None, config.severities) for kind, count in config.edits.items() for _ in range(count)]
    words = class_words(source.class_name, config.class_words)
    word = prompt_word(source.class_name, config.class_words)
    requests, number = [], 0
    for kind, wanted, severities in drawn:
        variants = tuple(product(severities, config.strategies_of(kind)))
        keys = tuple(f"{source.key}_cf{number + index:02d}" for index in range(len(variants)))
        later = config.turns.get(kind, ())
        requests.append(
            Request(
                source=source,
                kind=kind,
                variants=variants,
                keys=keys,
                word=word,
                words=words,
                wanted=wanted,
                later=later,
            )
        )
        number += len(keys)
    return requests


def draw_edits(
    cells: Sequence[WantedEdit], budget: int, caption: str, seed: int
) -> list[tuple[EditKind, str | None, tuple[float, ...]]]:
    """Draw `budget` edits by their shares, as kind, value and severities; a value that is in the caption is passed by.

    A value comes once at each severity, and its severities are one request; "any value" may come again and again.
    """
    rng = np.random.default_rng(seed)
    text = plain(caption)
    weights = np.array(
        [0.0 if cell.value and count_phrase(plain(cell.value), text) else cell.share for cell in cells], np.float64
    )
    drawn: list[WantedEdit] = []
    while len(drawn) < budget and weights.any():
        index = int(rng.choice(len(cells), p=weights / weights.sum()))
        drawn.append(cells[index])
        if cells[index].value is not None:
            weights[index] = 0.0
    severities: dict[tuple[EditKind, str], list[float]] = {}
    for cell in drawn:
        if cell.value is not None:
            severities.setdefault((cell.kind, cell.value), []).append(cell.severity)
    wished = [(kind, value, tuple(sorted(found))) for (kind, value), found in severities.items()]
    return [*wished, *((cell.kind, None, (cell.severity,)) for cell in drawn if cell.value is None)]


class Answers:
    """Give each request a reply: no two of one source and kind put in the same value.

    A request that wants no value keeps its first valid reply. One that wants a value gets the first that has it,
    whichever request of its source and kind was asked; in the end any other that nobody took.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = requests
        self._given: dict[tuple[str, ...], Reply | BadReply] = {}
        self._taken: set[tuple[str, EditKind, str]] = set()
        self._spare: dict[tuple[str, EditKind], list[Reply]] = {}
        self._wanted = {_mark(item, item.wanted): item for item in requests if item.wanted is not None}

    def open_requests(self) -> list[Request]:
        """Return the requests that have no reply yet, or not the value they want."""
        return [item for item in self._requests if not isinstance(self._given.get(item.keys), Reply)]

    def add(self, request: Request, reply: Reply | BadReply, text: str) -> None:
        """Take the reply to a request, `text` as the model gave it."""
        if isinstance(reply, Reply):
            mark = _mark(request, reply.after)
            whose = self._wanted.get(mark, request if request.wanted is None else None)
            if mark in self._taken:
                reply = BadReply(reason="duplicate_edit", detail=f"another {request.kind} edit has this after")
            elif whose is not None:
                self._give(whose, reply)
                return
            else:
                self._spare.setdefault(mark[:2], []).append(reply)
                return
        if not isinstance(self._given.get(request.keys), Reply):
            self._given[request.keys] = replace(reply, detail=f"{reply.detail}; reply: {text}"[:MAX_DETAIL])

    def settled(self) -> Mapping[tuple[str, ...], Reply | BadReply]:
        """Return the answers by keys, once no more are to come: the spare replies go to who has none."""
        for request in self.open_requests():
            for reply in self._spare.get((request.source.key, request.kind), []):
                if _mark(request, reply.after) not in self._taken:
                    self._give(request, reply)
                    break
        return self._given

    def _give(self, request: Request, reply: Reply) -> None:
        self._taken.add(_mark(request, reply.after))
        self._given[request.keys] = reply


class Interview:
    """Ask the requests of one source and kind until each has its reply, at most `num_attempts` times.

    The replies to one attempt are taken together and in the order of the requests, so it does not matter which text
    comes first, nor when those of others do: no reply is another kind's or source's business.
    """

    def __init__(self, requests: Sequence[Request], num_attempts: int) -> None:
        self._answers = Answers(requests)
        self._num_attempts = num_attempts
        self._heard: dict[tuple[str, ...], str | BadReply] = {}
        self.attempt = 0
        self.asked = self._answers.open_requests()

    def hear(self, request: Request, text: str | BadReply) -> bool:
        """Take the text for a request that is asked; say whether it was the last, so that `asked` is to be asked."""
        self._heard[request.keys] = text
        if len(self._heard) < len(self.asked):
            return False
        for item in self.asked:
            match self._heard[item.keys]:
                case BadReply() as refusal:
                    self._answers.add(item, refusal, "none")
                case text:
                    reply = parse_reply(text, caption=item.source.caption, words=item.words, kind=item.kind)
                    self._answers.add(item, check_turn(item, reply), text)
        self.attempt += 1
        self._heard = {}
        self.asked = self._answers.open_requests() if self.attempt < self._num_attempts else []
        return True

    def settled(self) -> Mapping[tuple[str, ...], Reply | BadReply]:
        """Return the answers by keys, once no more are to come."""
        return self._answers.settled()


def check_turn(request: Request, reply: Reply | BadReply) -> Reply | BadReply:
    """Return a reply, or what is wrong with it as one of several turns."""
    if isinstance(reply, BadReply) or not (request.later or request.made):
        return reply
    if VALUES_JOINT in reply.before + reply.after:
        return BadReply(reason="edit_holds_joint", detail=f"before or after holds {VALUES_JOINT!r}, which joins turns")
    if plain(reply.after) in request.replaced:
        return BadReply(reason="edit_changes_nothing", detail=f"{reply.after!r} is what a turn before has replaced")
    return reply


def _mark(request: Request, value: str) -> tuple[str, EditKind, str]:
    return request.source.key, request.kind, plain(value)
