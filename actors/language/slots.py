"""Text generation in slots: a row whose text has ended takes the next prompt at once."""

import inspect
import logging
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from actors.language.cache import Memory, RowCache, attention_of, layer_kinds
from actors.language.generation import Ask, GumbelNoise, PaddedTexts, Writer, end_tokens
from actors.language.prefill import Prompts, Waiting, rounded_up
from actors.models.device import precision
from actors.models.untyped import Model, Tokenizer
from engine.runfile.perturber import PerturberConfig

LOG = logging.getLogger(__name__)
# A slot is as long as its text can become: it follows from the prompt alone.
ROW_STEP = 128
# On a CPU the columns after the last one in use are not read: what is masked there changes no bit of the attention.
COLUMN_STEP = 32

# What a model's generation_config may say. Settings of sampling count for nothing: the run file's temperature is all.
KNOWN_SETTINGS = frozenset(
    {
        *("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config"),
        *("max_length", "max_new_tokens", "use_cache", "cache_implementation", "repetition_penalty"),
        *("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),
        # Of assisted generation, which takes an assistant.
        *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
        *("assistant_lookbehind", "target_lookbehind"),
    }
)
# These change nothing where they are 1, and all others where they are 0, False or None.
NEUTRAL_AT_ONE = frozenset(
    {"num_beams", "num_beam_groups", "num_return_sequences", "length_penalty", "encoder_repetition_penalty"}
)


def make_writer(model: Model, tokenizer: Tokenizer, config: PerturberConfig) -> Writer:
    """Return the writer for a causal language model: slots where its layers and settings allow them."""
    if attention_of(model) is None:
        LOG.warning("this transformers names no attention implementation: texts are written in padded batches, slower")
        return PaddedTexts(model, tokenizer, config)
    return (TextSlots if fits_slots(model) else PaddedTexts)(model, tokenizer, config)


def fits_slots(model: Model) -> bool:
    """Say whether a model takes positions and a mask of four dimensions, and caches keys and values alone."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    kinds = {type(layer) for layer in layer_kinds(model)}
    return bool(
        "position_ids" in inspect.signature(model.forward).parameters
        and model.is_backend_compatible()  # its attention takes a mask of four dimensions as it is
        and attention_of(model) in ("sdpa", "eager")
        and kinds <= {DynamicLayer, DynamicSlidingWindowLayer}
        and _settings(model.generation_config) <= KNOWN_SETTINGS
    )


def _settings(generation_config: Model) -> set[str]:
    """Return the names of what a generation_config sets to a value that changes something."""
    values = generation_config.to_diff_dict().items()
    return {name for name, value in values if value and not (name in NEUTRAL_AT_ONE and value == 1)}


class TextSlots:
    """Write texts in `batch_size` slots; one whose text has ended takes the next prompt at once.

    A text depends on its own prompt and seed alone: the shape of every forward pass follows from the text, and a row
    sees nothing of its neighbours. On a CPU with one thread that is true of every bit, except that a mixture of experts
    may compute its rows together. A prompt is read once for all texts that follow it soon after.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, config: PerturberConfig) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.calls: Counter[str] = Counter()
        self._padded = PaddedTexts(model, tokenizer, config)
        self._padded.calls = self.calls
        self._prompts = Prompts(model, tokenizer, config.batch_size)
        self._window = min((layer.sliding_window for layer in layer_kinds(model) if layer.is_sliding), default=None)

    def texts(self, asks: deque[Ask]) -> Iterator[tuple[Ask, str]]:
        """Take the asks out and yield their texts as they end; more may be put in meanwhile."""
        queues: dict[int, deque[Waiting]] = {}
        overlong: deque[Ask] = deque()
        while self._sort(asks, queues, overlong):
            if not queues:
                yield from self._padded.texts(overlong)
                continue
            length, queue = next(iter(queues.items()))
            slots = Slots(self.model, self.tokenizer, self.config, length)
            while queue or slots.num_texts:
                for text in self._step(slots, queue):
                    yield text.waiting.ask, self.tokenizer.decode(text.tokens, skip_special_tokens=True)
                self._sort(asks, queues, overlong)
            del queues[length]
        self._prompts.forget()

    def _sort(self, asks: deque[Ask], queues: dict[int, deque[Waiting]], overlong: deque[Ask]) -> bool:
        """Put the asks into the queues of their lengths; say whether any waits.

        Those that are read together stand together, the longest first, as they end last. Before them come prompts that
        are to have several texts: of these some will be alike and asked for again.
        """
        new = [self._prompts.waiting(ask) for ask in asks]
        asks.clear()
        num_texts = Counter(item.tokens for item in new)
        for waiting in sorted(new, key=lambda item: (num_texts[item.tokens], *item.shape, item.tokens), reverse=True):
            length = rounded_up(len(waiting.tokens) + self.config.max_new_tokens, ROW_STEP)
            if self._window is not None and length > self._window:
                overlong.append(waiting.ask)  # some layers would forget its beginning, and all have one mask here
            else:
                queues.setdefault(length, deque()).append(waiting)
        return bool(queues or overlong)

    def _step(self, slots: "Slots", queue: deque[Waiting]) -> list["Text"]:
        """Give free slots to those who wait, write one token of each text, and return the texts that end with it."""
        with torch.inference_mode(), precision(self.config.chat_model, self.model.device):
            while queue and slots.num_texts < self.config.batch_size:
                waiting = queue.popleft()
                slots.seat(waiting, self._prompts.memory(waiting, queue, self.calls))
            num_texts = slots.num_texts
            ended = slots.write()
        self.calls += Counter(texts=len(ended), tokens=self.config.batch_size, useful_tokens=num_texts)
        return ended


@dataclass(frozen=True, kw_only=True)
class Text:
    """Hold a text that is being written, and its tokens so far."""

    waiting: Waiting
    tokens: list[int] = field(default_factory=list)

    @property
    def place(self) -> int:
        """Return the position of the token that is read next."""
        return len(self.waiting.tokens) + len(self.tokens) - 1


class Slots:
    """Hold the texts that are being written, one in each row of a cache."""

    def __init__(self, model: Model, tokenizer: Tokenizer, config: PerturberConfig, length: int) -> None:
        size, device = config.batch_size, model.device
        self.cache = RowCache(model, size, length)
        self._texts: list[Text | None] = [None] * size
        self._max_tokens, self._ends = config.max_new_tokens, frozenset(end_tokens(model, tokenizer))
        self._reads_all = device.type != "cpu" or attention_of(model) != "sdpa"
        self._tokens = torch.zeros(size, 1, dtype=torch.long, device=device)
        self._noise = GumbelNoise([0] * size, config.temperature, device)
        self._penalty = model.generation_config.repetition_penalty or 1.0
        vocabulary = model.get_output_embeddings().weight.shape[0] if self._penalty != 1 else 0
        self._seen = torch.zeros(size, vocabulary, dtype=torch.bool, device=device)

    @property
    def num_texts(self) -> int:
        """Return how many are being written."""
        return sum(text is not None for text in self._texts)

    def seat(self, waiting: Waiting, memory: Memory) -> None:
        """Begin a text in a free slot."""
        row = self._texts.index(None)
        self._texts[row] = Text(waiting=waiting)
        self.cache.put(slice(row, row + 1), memory)
        self._tokens[row] = waiting.tokens[-1]
        self._noise.generators[row].manual_seed(waiting.ask.seed)
        if self._penalty != 1:
            self._seen[row] = False
            self._seen[row, list(waiting.tokens)] = True

    def write(self) -> list[Text]:
        """Write one token of each text; return the texts that end with it, whose slots are free then."""
        places = [text.place if text else 0 for text in self._texts]
        columns = self.cache.length if self._reads_all else rounded_up(max(places) + 1, COLUMN_STEP)
        at = torch.tensor(places, device=self._tokens.device)[:, None]
        scores = self._noise(self._tokens, self._punished(self.cache.forward(self._tokens, at, columns).float()))
        self._tokens = scores.argmax(1, keepdim=True)
        if self._penalty != 1:
            self._seen.scatter_(1, self._tokens, True)
        ended = []
        for row, (text, token) in enumerate(zip(self._texts, self._tokens[:, 0].tolist(), strict=True)):
            if text is None:
                continue
            text.tokens.append(token)
            if token in self._ends or len(text.tokens) == self._max_tokens:
                ended.append(text)
                self._texts[row] = None
        return ended

    def _punished(self, scores: torch.Tensor) -> torch.Tensor:
        """Return scores after the model's repetition penalty, as transformers has it: prompt and text both count."""
        if self._penalty == 1:
            return scores
        return torch.where(self._seen, torch.where(scores < 0, scores * self._penalty, scores / self._penalty), scores)
