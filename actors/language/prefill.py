"""Prompts on their way into a language model's memory: each is read once, and what begins many of them once for all."""

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Generic, TypeAlias, TypeVar

import torch

from actors.language.cache import Memory, RowCache
from actors.language.generation import Ask
from actors.models.untyped import Model, Tokenizer

Tokens: TypeAlias = tuple[int, ...]
Value = TypeVar("Value")

# The shape in which a prompt is read follows from the prompt alone: so many at once, each padded by a quarter at most
# where it is long, mostly by less than an eighth.
NUM_TOGETHER = 8
MIN_STEP, MAX_STEP = 8, 128
# Beginnings are cut to a multiple, so that class names that begin alike do not make many of them.
BEGINNING_STEP = 64
NUM_BEGINNINGS = 16


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Hold an ask with its tokens, the first `num_shared` of which begin other prompts too."""

    ask: Ask
    tokens: Tokens
    num_shared: int

    @property
    def shape(self) -> tuple[int, Tokens]:
        """Return what prompts have in common that are read together: how long they are padded, and the beginning.

        The last token is not read ahead: it is the first that a slot reads, and gives the first of the text.
        """
        num_tokens = max(len(self.tokens) - 1 - self.num_shared, 1)
        step = min(max(1 << num_tokens.bit_length() >> 3, MIN_STEP), MAX_STEP)
        return rounded_up(num_tokens, step), self.tokens[: self.num_shared]


class Prompts:
    """Read prompts, and keep the keys and values of those that were used last."""

    def __init__(self, model: Model, tokenizer: Tokenizer, batch_size: int) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._num_together = min(NUM_TOGETHER, batch_size)
        self._memories: Recent[Tokens, Memory] = Recent(3 * self._num_together)
        self._beginnings: Recent[Tokens, Memory] = Recent(NUM_BEGINNINGS)
        self._heads: Recent[str, Tokens] = Recent(NUM_BEGINNINGS)

    def waiting(self, ask: Ask) -> Waiting:
        """Return an ask with its tokens."""
        tokens, head = self._tokens(ask.prompt), self._heads.find(ask.head)
        if head is None:
            head = self._heads.keep(ask.head, self._tokens(ask.head))
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(tokens[:-1], head, strict=False)))
        return Waiting(ask=ask, tokens=tokens, num_shared=same // BEGINNING_STEP * BEGINNING_STEP)

    def memory(self, waiting: Waiting, queue: deque[Waiting], calls: Counter[str]) -> Memory:
        """Return the memory of a prompt; where it must be read, those of its shape that come soon are read with it."""
        found = self._memories.find(waiting.tokens)
        if found is not None:
            return found
        soon = (item for item in islice(queue, 2 * self._num_together) if item.shape == waiting.shape)
        unread = {item.tokens: item for item in (waiting, *soon) if item.tokens not in self._memories}
        self._read(list(unread.values())[: self._num_together], calls)
        return self._memories[waiting.tokens]

    def forget(self) -> None:
        """Forget the prompts; what begins many is kept."""
        self._memories.clear()

    def _read(self, together: list[Waiting], calls: Counter[str]) -> None:
        size, beginning = together[0].shape
        blocks = [item.tokens[item.num_shared : -1] for item in together]
        rows = blocks + [blocks[-1]] * (self._num_together - len(blocks))
        cache = RowCache(self.model, len(rows), len(beginning) + size)
        if beginning:
            cache.put(slice(None), self._beginning(beginning))
        self._forward(cache, rows, start=len(beginning), size=size)
        calls += Counter(prompts=len(blocks), tokens=size * len(rows), useful_tokens=sum(map(len, blocks)))
        for row, item in enumerate(together):
            self._memories.keep(item.tokens, cache.take(row, len(item.tokens) - 1))

    def _beginning(self, tokens: Tokens) -> Memory:
        memory = self._beginnings.find(tokens)
        if memory is None:
            cache = RowCache(self.model, 1, len(tokens))
            self._forward(cache, [tokens], start=0, size=len(tokens))
            memory = self._beginnings.keep(tokens, cache.take(0, len(tokens)))
        return memory

    def _forward(self, cache: RowCache, rows: list[Tokens], *, start: int, size: int) -> None:
        """Read rows of tokens from the place `start` on, padded on the right to `size`."""
        pad, device = self.tokenizer.pad_token_id, self.model.device
        tokens = torch.tensor([[*row, *[pad] * (size - len(row))] for row in rows], device=device)
        cache.forward(tokens, (start + torch.arange(size, device=device)).expand(len(rows), -1), start + size)

    def _tokens(self, text: str) -> Tokens:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])


Key = TypeVar("Key")


class Recent(OrderedDict[Key, Value], Generic[Key, Value]):
    """Keep the values that were used last."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def find(self, key: Key) -> Value | None:
        """Return a value and count it as used, None where it is not kept."""
        if key in self:
            self.move_to_end(key)
        return self.get(key)

    def keep(self, key: Key, value: Value) -> Value:
        """Keep and return a value."""
        self[key] = value
        if len(self) > self._limit:
            self.popitem(last=False)
        return value


def rounded_up(number: int, step: int) -> int:
    """Return the smallest multiple of a step that is not smaller."""
    return -(-number // step) * step
