"""Text generation in which each text draws from its own random numbers."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from actors.language.answers import BadReply
from actors.models.batching import padded_batches
from actors.models.device import precision
from actors.models.untyped import Model, Tokenizer
from engine.runfile.perturber import PerturberConfig


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Ask for one text: what it follows, and the seed of its random numbers.

    `key` is the caller's own and names the ask. `head` is a text whose beginning the prompt shares with other prompts,
    chosen by what is asked alone, never by who asks beside it. Where a server renders the chat, the prompt is what the
    user says in it, after `system`.
    """

    key: str
    prompt: str
    seed: int
    head: str = ""
    system: str = ""


class Writer(Protocol):
    """Write texts; `calls` counts texts, prompts that were read, and all tokens and the useful ones of both."""

    calls: Counter[str]

    def texts(self, asks: deque[Ask]) -> Iterator[tuple[Ask, str | BadReply]]:
        """Take the asks out and yield their texts as they end, or why there is none; more may be put in meanwhile."""
        ...


class GumbelNoise(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped
    """Add Gumbel noise to scores / temperature, each row from its own generator.

    The largest of logits plus Gumbel noise is an exact sample from the softmax of the logits (Gumbel 1954), so greedy
    decoding afterwards is temperature sampling that does not depend on the other rows of the batch.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, device: torch.device) -> None:
        self.temperature = temperature
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return noisy scores, (num_rows, vocabulary) in float32."""
        logits = scores.float() / self.temperature
        uniform = torch.stack(
            [torch.rand(logits.shape[1], generator=item, device=logits.device) for item in self.generators]
        )
        # rand is in [0, 1): 0 would give minus infinity to a token that is then never drawn, which is its due.
        return logits - torch.log(-torch.log(uniform))


class PaddedTexts:
    """Write texts in batches with `generate`: all wait for the longest prompt and the longest answer of their batch."""

    def __init__(self, model: Model, tokenizer: Tokenizer, config: PerturberConfig) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.calls: Counter[str] = Counter()

    def texts(self, asks: deque[Ask]) -> Iterator[tuple[Ask, str]]:
        """Take the asks out and yield their texts batch by batch; more may be put in meanwhile."""
        size = self.config.batch_size
        while asks:
            taken = [asks.popleft() for _ in range(min(len(asks), size))]
            for rows, count in padded_batches(taken, size):
                yield from zip(taken, self._batch(rows, count), strict=True)

    def _batch(self, rows: Sequence[Ask], count: int) -> list[str]:
        """Return the texts of the first `count` asks of a full batch."""
        from transformers import GenerationConfig

        tokenizer = self.tokenizer
        tokenizer.padding_side = "left"
        inputs = tokenizer(
            [ask.prompt for ask in rows],
            return_tensors="pt",
            padding=True,
            pad_to_multiple_of=32,
            add_special_tokens=False,
        ).to(self.model.device)
        ends = end_tokens(self.model, tokenizer)
        settings = GenerationConfig(
            max_new_tokens=self.config.max_new_tokens,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
        )
        noise = GumbelNoise([ask.seed for ask in rows], self.config.temperature, self.model.device)
        with torch.inference_mode(), precision(self.config.chat_model, self.model.device):
            output = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                generation_config=settings,
                logits_processor=LogitsProcessorList([noise]),
            )
        new_tokens = output[:count, inputs["input_ids"].shape[1] :]
        # The last token of a text is written but not read.
        lengths = [_written(row, ends) - 1 for row in new_tokens.tolist()]
        used = int(inputs["attention_mask"][:count].sum()) + sum(lengths)
        computed = len(rows) * (output.shape[1] - 1)
        self.calls += Counter(texts=count, prompts=count, tokens=computed, useful_tokens=used)
        return [str(text) for text in tokenizer.batch_decode(new_tokens, skip_special_tokens=True)]


def end_tokens(model: Model, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens that end a text."""
    ends = model.generation_config.eos_token_id or tokenizer.eos_token_id
    return list(ends) if isinstance(ends, list) else [ends]


def _written(tokens: Sequence[int], ends: Sequence[int]) -> int:
    """Return how many tokens a text has, its end token with them."""
    return next((index + 1 for index, token in enumerate(tokens) if token in ends), len(tokens))
