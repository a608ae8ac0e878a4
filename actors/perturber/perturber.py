"""Captions to edits: a causal language model with a chat template, asked for JSON."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from actors.language.answers import BadReply
from actors.language.generation import Ask
from actors.perturber.chat import ChatModel, LoadedChat, ServedChat
from actors.perturber.interviews import Interview, Request, make_requests
from actors.perturber.listed import listed_replies
from actors.perturber.prompts import system_prompt, user_prompt
from actors.perturber.replies import Reply
from actors.perturber.turns import edit_of, next_turn, no_turn_before
from engine.runfile.perturber import AllocatedPerturberConfig, PerturberConfig
from engine.sample import Edit, EditKind, Json, Rejection, Sample, content_seed, turn_key

# One caption of 10,000 characters makes every row of its batch as long: the demo's model took 216 s for 21 sources.
MAX_CAPTION_CHARS = 2000


class Perturber:
    """Follow each source with its placebo and its edits, still without images.

    Keys: {source}_placebo, of a run with several editors one of each, {source}_placebo_{editor}; then {source}_cf00,
    _cf01, ... counted through the kinds in the order of the run file, the edits of a kind, the severities and the
    editors; where a round has an allocation, through what it drew. Later turns of an edit and of a placebo have their
    keys followed by _t2, _t3, ... An edit that could not be had keeps its number, as a Rejection.
    """

    def __init__(self, config: PerturberConfig, device: torch.device, *, name: str, seed: int, offline: bool) -> None:
        self.config, self.name, self.seed = config, name, seed
        self.model: ChatModel | None = None
        self.provenance: dict[str, Json] = {}
        if config.model is not None:
            self.model = (
                ServedChat(config, config.server) if config.server else LoadedChat(config, device, offline=offline)
            )
            self.provenance = {**self.model.provenance, "temperature": config.temperature}

    @property
    def calls(self) -> Counter[str]:
        """Return what the model was asked for: texts, prompts, tokens and the useful ones among them."""
        return self.model.writer.calls if self.model else Counter()

    def __call__(self, batch: Sequence[Sample]) -> Iterator[Sample | Rejection]:
        """Yield each sample of the batch, after a source its placebo, edits and rejections."""
        requests = {
            sample.key: make_requests(sample, self.config, self.seed) for sample in batch if sample.role == "source"
        }
        answers: dict[tuple[str, ...], Reply | BadReply] = {}
        asked = [item for items in requests.values() for item in items]
        while asked:
            answers |= self._answers([item for item in asked if _can_ask(item.source)])
            asked = [later for item in asked if (later := next_turn(item, answers.get(item.keys))) is not None]
        for sample in batch:
            yield sample
            if sample.role != "source":
                continue
            if self.config.placebo and sample.caption:
                for editor in self.config.editors:
                    yield from self._placebos(sample, editor)
            for first in requests[sample.key]:
                request: Request | None = first
                while request is not None:
                    answer = answers.get(request.keys)
                    yield from self._candidates(sample, request, answer)
                    request = next_turn(request, answer)

    def _answers(self, requests: Sequence[Request]) -> Mapping[tuple[str, ...], Reply | BadReply]:
        """Return the answer to each request, by its keys: of a kind with listed values by rule."""
        listed = [item for item in requests if item.kind in self.config.values]
        invented = [item for item in requests if item.kind not in self.config.values]
        return {
            **listed_replies(listed, self.config.values, self.seed),
            **(self._ask(self.model, invented) if self.model else {}),
        }

    def _ask(self, model: ChatModel, requests: Sequence[Request]) -> Mapping[tuple[str, ...], Reply | BadReply]:
        """Return the answer to each request, by its keys; none waits for other sources before it is asked again."""
        together: dict[tuple[str, EditKind], list[Request]] = {}
        for request in requests:
            together.setdefault((request.source.key, request.kind), []).append(request)
        interviews = [Interview(items, 1 + self.config.retries) for items in together.values()]
        asked: dict[str, tuple[Interview, Request]] = {}
        asks: deque[Ask] = deque()

        def put(interview: Interview) -> None:
            for request in interview.asked:
                ask = self._wish(model, request, interview.attempt)
                asked[ask.key] = interview, request
                asks.append(ask)

        for interview in interviews:
            put(interview)
        for ask, text in model.writer.texts(asks):
            interview, request = asked.pop(ask.key)
            if interview.hear(request, text):
                put(interview)
        return {keys: answer for interview in interviews for keys, answer in interview.settled().items()}

    def _wish(self, model: ChatModel, request: Request, attempt: int) -> Ask:
        key = f"{request.keys[0]}/{self.name}/{attempt}"
        system = system_prompt(request.kind, request.word, request.wanted, self.config.kinds)
        user = user_prompt(request.source.caption, request.word, request.kind)
        return model.ask(key, request.kind, system, user, content_seed(self.seed, key))

    def _placebos(self, source: Sample, editor: str) -> Iterator[Sample]:
        """Yield an editor's placebo, and one of each later turn that it draws, each on the picture before it."""
        edit = Edit.placebo(source.caption, strategy=editor)
        key = "_".join(part for part in (source.key, "placebo", editor) if part)
        for turn in range(1, self.config.num_placebos(editor) + 1):
            yield replace(source, key=turn_key(key, turn), role="placebo", image=b"", edit=replace(edit, turn=turn))

    def _candidates(
        self, source: Sample, request: Request, answer: Reply | BadReply | None
    ) -> Iterator[Sample | Rejection]:
        if answer is None:
            answer = no_turn_before(request) if request.turn > 1 and request.made is None else _unasked(request.source)
        for key, (severity, editor) in zip(request.keys, request.variants, strict=True):
            if isinstance(answer, BadReply):
                numbered = replace(source, key=key)
                yield Rejection.of(numbered, stage=self.name, reason=answer.reason, detail=answer.detail)
                continue
            edit = replace(edit_of(request, answer), severity=severity, strategy=editor)
            provenance = {**source.provenance, self.name: self._provenance(request)}
            yield replace(source, key=key, role="counterfactual", image=b"", edit=edit, provenance=provenance)

    def _provenance(self, request: Request) -> dict[str, Json]:
        if not isinstance(self.config, AllocatedPerturberConfig):
            return self.provenance
        return {**self.provenance, "allocation": self.config.allocation, "wanted": request.wanted}


def _can_ask(source: Sample) -> bool:
    return 0 < len(source.caption) <= MAX_CAPTION_CHARS


def _unasked(source: Sample) -> BadReply:
    """Return why the language model was not asked about a source."""
    if source.caption:
        detail = f"its caption has {len(source.caption):,} characters, allowed are {MAX_CAPTION_CHARS:,}: shorten it"
        return BadReply(reason="caption_too_long", detail=detail)
    detail = "the source has no caption: give captions with the data, or put a captioner before this stage"
    return BadReply(reason="no_caption", detail=detail)
