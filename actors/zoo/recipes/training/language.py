"""The language of the zoo: instructions and captions of the wardrobe, and the tokenizers trained on them."""

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from engine.sample import PLACEBO_INSTRUCTION
from engine.wardrobe.garments import CLASSES
from engine.wardrobe.scene import BACKGROUNDS, COLOURS, LIGHTS, with_article

MAX_TOKENS = 32
TEXT_WIDTH = 128
# Words outside the wardrobe, so that a tokenizer and a language model have met some.
OTHER_CLASSES = (
    "cat",
    "dog",
    "car",
    "bird",
    "horse",
    "ship",
    "house",
    "tree",
    "cup",
    "chair",
    "three",
    "seven",
    "flower",
)
OTHER_PLACES = (
    "a table",
    "a beach",
    "the street",
    "a lawn",
    "ice",
    "black",
    "a white wall",
    "leaves",
    "asphalt",
    "a roof",
)
WEATHERS = ("snowy", "rainy", "foggy", "sunny", "stormy", "cloudy")
DOMAINS = ("sketch", "painting", "cartoon", "photo", "drawing", "poster")
VIEWPOINTS = ("from above", "from below", "from the side", "from far away", "in close-up")
ADJECTIVES = ("old", "new", "small", "large", "dirty", "clean", "shiny", "torn")
OBJECTS = ("ball", "book", "bottle", "lamp", "stone", "box", "leaf")


def edit_instructions(kind: str, before: str, after: str, class_name: str) -> tuple[str, ...]:
    """Return ways to say one edit, the canonical one first."""
    match kind:
        case "background":
            return (f"change the background to {after}", f"put it on {after}", f"replace {before} with {after}")
        case "colour":
            return (f"change the colour to {after}", f"make the {class_name} {after}", f"turn {before} into {after}")
        case "lighting":
            return (f"make the light {after}", f"change the light to {after}")
        case "garment":
            return (f"replace the {before} with {with_article(after)}", f"change the {before} to {with_article(after)}")
        case "placebo":
            return (PLACEBO_INSTRUCTION,)
        case _:
            return (f"make it {after}",)


def clip_tokenizer() -> CLIPTokenizer:
    """Return a tokenizer in CLIP's format: byte-level pairs, words end in </w>, any text encodes."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1200, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(_words(), trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    pieces = dict.fromkeys([*alphabet, *(f"{letter}</w>" for letter in alphabet), *learned["vocab"]])
    vocabulary = {piece: index for index, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    merges = [tuple(merge) for merge in learned["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def clip_text_config(tokenizer: CLIPTokenizer, size: int) -> CLIPTextConfig:
    """Return the text encoder of editor and verifier: two layers of `size` times TEXT_WIDTH."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=size * TEXT_WIDTH,
        intermediate_size=4 * size * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        **special_tokens(tokenizer),
    )


def text_tokenizer(extra: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer that gives every text back exactly; `extra` are further texts to learn from."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<bos>", "<eos>"]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=cast(list[str | AddedToken], special),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*_words(), *extra], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # nosec B106 # no password
        bos_token="<bos>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
    )


def in_spans(offsets: Tensor, starts: Sequence[int], ends: Sequence[int]) -> Tensor:
    """Return whether each token touches the characters [start, end) of its text, (n, length) bool.

    `offsets` are the tokenizer's, (n, length, 2), in characters.
    """
    first, last = torch.tensor(starts)[:, None], torch.tensor(ends)[:, None]
    return (offsets[..., 1] > first) & (offsets[..., 0] < last)


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what a model's configuration says of its tokenizer's special tokens."""
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def _words() -> Iterator[str]:
    """Yield the texts of the tokenizers' training: every word of the wardrobe, often, and some others."""
    rng = random.Random(0)
    for _ in range(3000):
        name, colour = rng.choice(CLASSES), rng.choice(list(COLOURS))
        background, light = rng.choice(BACKGROUNDS), rng.choice(list(LIGHTS))
        yield f"a photo of {with_article(f'{colour} {name}')} on {background} in {light} light"
        for kind, after in (("background", background), ("colour", colour), ("lighting", light), ("garment", name)):
            yield rng.choice(edit_instructions(kind, rng.choice(CLASSES), after, name))
        yield PLACEBO_INSTRUCTION
        yield f"a photo of {with_article(rng.choice(OTHER_CLASSES))} on {rng.choice(OTHER_PLACES)}"
        yield " ".join(rng.choice(words) for words in (WEATHERS, DOMAINS, VIEWPOINTS, ADJECTIVES, OBJECTS))
