"""Train the perturber: a small causal language model that answers a caption with one edit in JSON."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from actors.perturber.prompts import user_prompt
from actors.zoo.recipes.training.language import (
    ADJECTIVES,
    DOMAINS,
    OBJECTS,
    OTHER_CLASSES,
    OTHER_PLACES,
    VIEWPOINTS,
    WEATHERS,
    edit_instructions,
    in_spans,
    special_tokens,
    text_tokenizer,
)
from actors.zoo.recipes.training.loop import Loss, Recipe, TrainContext, save_half
from engine.sample import EditKind
from engine.wardrobe.garments import CLASSES
from engine.wardrobe.scene import BACKGROUNDS, COLOURS, LIGHTS, with_article

RECIPE = Recipe(name="perturber", num_steps=2800, learning_rate=2e-3, weight_decay=0.01)
BATCH_SIZE = 32
AFTER = '"after": "'
# The new value is one word in fifty, and the one that must not be the old one.
VALUE_WEIGHT = 8.0
# Unlikelihood (Welleck et al. 2020): cross-entropy alone never learned within 2,300 steps that the old value is out.
OLD_VALUE_WEIGHT = 4.0
KINDS: tuple[EditKind, ...] = (
    *("background", "background", "colour", "colour", "lighting", "object"),
    *("weather", "domain", "viewpoint", "adjective"),
)
# Only the user's message is rendered: the system message teaches full-size models what this one was trained on.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ bos_token + message['content'] + '\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A `question` that the model reads, and the parts of its answer: `before` becomes `after`."""

    question: str
    before: str
    after: str
    caption: str
    instruction: str

    def answer(self, after: str | None = None) -> str:
        """Return the JSON of the answer, or of the one that puts in `after`."""
        fields = {"before": self.before, "after": after or self.after}
        return json.dumps({**fields, "caption": self.caption, "instruction": self.instruction}, ensure_ascii=False)


def make_perturber(tokenizer: PreTrainedTokenizerFast, size: int = 1) -> LlamaForCausalLM:
    """Return the untrained language model."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=160 * size,
            intermediate_size=448 * size,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            **special_tokens(tokenizer),
        )
    )


def start_perturber(context: TrainContext) -> tuple[nn.Module, Loss]:
    """Start on drawn captions and edits; the loss is on the answer alone."""
    tokenizer = perturber_tokenizer()
    model = make_perturber(tokenizer, context.size).to(context.device)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rng = random.Random(f"{RECIPE.seed}/{step}")
        drawn = [draw_exchange(rng) for _ in range(BATCH_SIZE)]
        heads = [f"{tokenizer.bos_token}{item.question}\n" for item in drawn]
        texts = [f"{head}{item.answer()}{tokenizer.eos_token}" for head, item in zip(heads, drawn, strict=True)]
        tokens = tokenizer(texts, padding=True, return_tensors="pt", return_offsets_mapping=True)
        weights = _weights(drawn, heads, tokens.offset_mapping) * tokens.attention_mask
        weights = weights[:, 1:].to(context.device)
        ids = tokens.input_ids.to(context.device)
        logits = model(input_ids=ids, attention_mask=tokens.attention_mask.to(context.device)).logits.float()
        losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        unchanged = [head + item.answer(item.before) for head, item in zip(heads, drawn, strict=True)]
        places, old = _departures(tokens.input_ids, tokenizer(unchanged, padding=True, return_tensors="pt").input_ids)
        shares = logits[torch.arange(BATCH_SIZE), places - 1].softmax(1)
        old_share = shares.gather(1, old[:, None].to(context.device)).clamp(max=1 - 1e-6)
        value = (losses * weights).sum() / weights.sum() - OLD_VALUE_WEIGHT * torch.log1p(-old_share).mean()
        return value, {"old_value": old_share.mean().item()}

    return model, loss


def save_perturber(context: TrainContext, folder: Path) -> int:
    """Write the model folder from the last checkpoint; return the step it is from."""
    tokenizer = perturber_tokenizer()
    tokenizer.padding_side = "left"
    tokenizer.chat_template = CHAT_TEMPLATE
    model = make_perturber(tokenizer, context.size)
    model.generation_config = GenerationConfig(**special_tokens(tokenizer))
    return save_half(RECIPE, model, context, folder, tokenizer=tokenizer)


def _weights(exchanges: Sequence[Exchange], heads: Sequence[str], offsets: Tensor) -> Tensor:
    """Return the weight of each token, (n, length): 0 in the head, more in the new value than in the answer's form.

    `heads` are what stands before the answers, `offsets` those of the tokens, (n, length, 2), in characters.
    """
    starts = [len(head) + item.answer().index(AFTER) + len(AFTER) for head, item in zip(heads, exchanges, strict=True)]
    ends = [start + len(item.after) for start, item in zip(starts, exchanges, strict=True)]
    answers = torch.tensor([len(head) for head in heads])[:, None]
    return torch.where(in_spans(offsets, starts, ends), VALUE_WEIGHT, 1.0) * (offsets[..., 0] >= answers)


def _departures(ids: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return where each row of `others` leaves that of `ids`, (n,), and the token with which it does, (n,)."""
    length = min(ids.shape[1], others.shape[1])
    places = (ids[:, :length] != others[:, :length]).int().argmax(1)
    return places, others.gather(1, places[:, None])[:, 0]


def perturber_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer, which has learned from questions and answers."""
    rng = random.Random(0)
    drawn = [draw_exchange(rng) for _ in range(4000)]
    return text_tokenizer([text for item in drawn for text in (item.question, item.answer())])


def draw_exchange(rng: random.Random) -> Exchange:
    """Return a question and its answer; every other value is equally likely."""
    # Words of no meaning teach it to copy what it does not know.
    strange = rng.random() < 0.3
    invented = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 8)))
    name = rng.choice([*OTHER_CLASSES, invented]) if strange else rng.choice(CLASSES)
    place = rng.choice([*OTHER_PLACES, invented]) if strange and rng.random() < 0.6 else rng.choice(BACKGROUNDS)
    colour = rng.choice(list(COLOURS))
    light = "" if rng.random() < 0.9 else f" in {rng.choice(list(LIGHTS)[1:])} light"
    caption = f"a photo of {with_article(f'{colour} {name}')} on {place}{light}"
    kind = rng.choice(KINDS)
    before, after, edited, instruction = _edit(rng, kind, name, colour, place, light, caption)
    # A caption may call the thing something else than its label does.
    label = rng.choice(CLASSES) if not strange and rng.random() < 0.15 else name
    return Exchange(
        question=user_prompt(caption, label, kind),
        before=before,
        after=after,
        caption=edited,
        instruction=instruction,
    )


def _edit(
    rng: random.Random, kind: EditKind, name: str, colour: str, place: str, light: str, caption: str
) -> tuple[str, str, str, str]:
    """Return (before, after, new caption, instruction)."""
    match kind:
        case "background":
            before, after = place, rng.choice([other for other in BACKGROUNDS if other != place])
            edited = f"a photo of {with_article(f'{colour} {name}')} on {after}{light}"
        case "colour":
            before, after = colour, rng.choice([other for other in COLOURS if other != colour])
            edited = f"a photo of {with_article(f'{after} {name}')} on {place}{light}"
        case "lighting":
            after = rng.choice([other for other in list(LIGHTS)[1:] if other not in light])
            edited = f"{caption.removesuffix(light)} in {after} light"
            return (light[4:] or "plain light"), f"{after} light", edited, edit_instructions(kind, "", after, name)[0]
        case "object":
            thing = rng.choice(OBJECTS)
            before, after = place, f"{place} with {with_article(thing)}"
            edited = f"a photo of {with_article(f'{colour} {name}')} on {after}{light}"
            return before, after, edited, f"add {with_article(thing)}"
        case "weather":
            after = rng.choice(WEATHERS)
            return "clear weather", f"{after} weather", f"{caption} in {after} weather", f"make it {after}"
        case "domain":
            after = rng.choice([other for other in DOMAINS if other != "photo"])
            return "photo", after, caption.replace("photo", after, 1), f"make it a {after}"
        case "viewpoint":
            after = rng.choice(VIEWPOINTS)
            return "from the front", after, f"{caption} {after}", f"show it {after}"
        case _:
            word = rng.choice(ADJECTIVES)
            after = f"{word} {colour}"
            return colour, after, caption.replace(with_article(colour), with_article(after), 1), f"make it {word}"
    return before, after, edited, edit_instructions(kind, before, after, name)[0]
