"""Captions and edits in words: the share of the language models' tokens that is useful, and what a core writes.

Models, captions and prompts are the wardrobe's. The padded way is `generate` in batches of as many texts as there are
slots, in the order in which they are asked for; what is asked again waits for all that was asked before. Both ways must
write the same texts before they are timed.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from actors.captioner.captioner import Captioner
from actors.language.generation import Ask, PaddedTexts, Writer
from actors.language.slots import TextSlots
from actors.models.device import fix_threads
from actors.models.files import resolve_model
from actors.models.loading import load_tokenizer, load_weights
from actors.perturber.chat import LoadedChat
from actors.perturber.perturber import Perturber
from actors.perturber.prompts import user_prompt
from actors.zoo.exam.scenes import captioned, source
from actors.zoo.recipes.training.language import OBJECTS, VIEWPOINTS, WEATHERS
from engine.figures.figures import Figure
from engine.runfile.captioner import CaptionerConfig
from engine.runfile.fields import ModelConfig
from engine.runfile.perturber import PerturberConfig
from engine.sample import EditKind, Sample
from engine.wardrobe.garments import load_garments
from engine.wardrobe.scene import caption, make_scenes, with_article
from tests.benchmarks.pairs import NUM_ROUNDS, percentiles, ratio_figure

CPU = torch.device("cpu")
NUM_SLOTS = 32
NUM_TEXTS = 160
# What the wardrobe's model reads first.
BEGIN = "<bos>"
# A shard of the wardrobe.
NUM_SOURCES = 40
NUM_TWINS = 12
KINDS: tuple[EditKind, ...] = (
    *("background", "colour", "lighting", "object", "weather", "domain", "viewpoint", "adjective"),
)
# Above it some of the small model's texts run on to their limit, as those of large ones do that explain their answer.
RAMBLING = 1.5
PERTURBER = PerturberConfig(model=ModelConfig(name="zoo/perturber"), batch_size=NUM_SLOTS, retries=4)
CAPTIONER = CaptionerConfig(model=ModelConfig(name="zoo/captioner"), batch_size=NUM_SLOTS)


def language_figures(folder: Path) -> Iterator[Figure]:
    """Yield all figures; nothing is written into `folder`."""
    fix_threads(1)
    yield from _texts("", PERTURBER)
    yield from _texts(".rambling", PERTURBER.model_copy(update={"temperature": RAMBLING}))
    yield from _edits()
    yield from _captions()


def _texts(name: str, config: PerturberConfig) -> Iterator[Figure]:
    """Yield the useful share of the tokens in slots and in padded batches, and how much faster slots are."""
    from transformers import AutoModelForCausalLM

    files = resolve_model(config.model, offline=True)
    tokenizer = load_tokenizer(files)
    model = load_weights(AutoModelForCausalLM, files, CPU)
    slots, padded = TextSlots(model, tokenizer, config), PaddedTexts(model, tokenizer, config)
    asks = list(mixed_asks(NUM_TEXTS))
    assert _written(slots, asks) == _written(padded, asks)
    yield from _shares(slots, padded, name)
    yield ratio_figure(
        f"language.times_padded_generate{name}",
        lambda: _written(slots, asks),
        lambda: _written(padded, asks),
        clock=time.process_time,
    )


class Waves(PaddedTexts):
    """Write all that is asked before taking any more."""

    def texts(self, asks: deque[Ask]) -> Iterator[tuple[Ask, str]]:
        """Take the asks out, write all of them, yield their texts; then those of what was put in meanwhile."""
        while asks:
            wave = deque(asks)
            asks.clear()
            yield from list(super().texts(wave))


def _shares(slots: Writer, padded: Writer, name: str) -> Iterator[Figure]:
    """Yield the useful share of the tokens that each writer has put through its model."""
    for writer, way in ((slots, ""), (padded, "_padded")):
        share = writer.calls["useful_tokens"] / writer.calls["tokens"]
        yield Figure(name=f"language.useful_tokens_share{way}{name}", value=share, n=writer.calls["texts"])


def _written(writer: Writer, asks: list[Ask]) -> dict[str, str]:
    return {ask.key: text for ask, text in writer.texts(deque(asks))}


def mixed_asks(number: int) -> Iterator[Ask]:
    """Yield asks for one edit of a random kind each, about captions of 9 to 35 words."""
    chance = random.Random(0)
    more = [
        *(f"next to {with_article(thing)}" for thing in OBJECTS),
        *(f"in {weather} weather" for weather in WEATHERS),
        *VIEWPOINTS,
    ]
    for index, scene in enumerate(make_scenes(load_garments("heldout"), "language", number)):
        text = ", ".join([caption(scene), *chance.sample(more, chance.choice((0, 0, 0, 1, 1, 2, 3, 5)))])
        question = user_prompt(text, scene.class_name, chance.choice(KINDS))
        yield Ask(key=str(index), prompt=f"{BEGIN}{question}\n", seed=index)


def _edits() -> Iterator[Figure]:
    """Yield edits a second of one core, answers that are asked for again included, and how much slots bring there."""
    stage = Perturber(PERTURBER, CPU, name="perturber", seed=0, offline=True)
    padded = Perturber(PERTURBER, CPU, name="perturber", seed=0, offline=True)
    assert isinstance(stage.model, LoadedChat)
    assert isinstance(stage.model.writer, TextSlots)
    padded.model.writer = Waves(stage.model.writer.model, stage.model.tokenizer, PERTURBER)
    scenes = list(make_scenes(load_garments("heldout"), "language", NUM_SOURCES))
    samples = captioned([source(scene) for scene in scenes], scenes)
    made = list(stage(samples))
    assert made == list(padded(samples))
    num_edits = sum(isinstance(item, Sample) and item.role == "counterfactual" for item in made)
    yield from _shares(stage.model.writer, padded.model.writer, ".shard")
    yield ratio_figure(
        "language.times_padded_generate.shard",
        lambda: list(stage(samples)),
        lambda: list(padded(samples)),
        clock=time.process_time,
    )
    yield _rate("language.edits_per_core_second", num_edits, lambda: list(stage(samples)))


def _captions() -> Iterator[Figure]:
    """Yield captions a second of one core, and how often an image is captioned where some come twice."""
    stage = Captioner(CAPTIONER, CPU, name="captioner", offline=True)
    samples = [source(scene) for scene in make_scenes(load_garments("heldout"), "language", 2 * NUM_SOURCES)]
    twins = [replace(sample, key=f"{sample.key}_twin", source_key=f"{sample.key}_twin") for sample in samples]
    texts = [item.caption for item in stage([*samples, *twins[:NUM_TWINS]]) if isinstance(item, Sample)]
    assert texts[len(samples) :] == texts[:NUM_TWINS]
    calls = stage.calls["captions"] / len({sample.image for sample in samples})
    yield Figure(
        name="language.caption_calls_per_image", value=calls, target=1.0, better="lower", n=len(texts), unit="calls"
    )
    yield _rate("language.captions_per_core_second", len(samples), lambda: list(stage(samples)))


def _rate(name: str, number: int, work: Callable[[], object]) -> Figure:
    """Return how many of the `number` that one call makes come in a second of one core, median of the rounds."""
    rates = []
    for _ in range(NUM_ROUNDS):
        start = time.process_time()
        work()
        rates.append(number / (time.process_time() - start))
    low, high = percentiles(rates)
    return Figure(name=name, value=sorted(rates)[NUM_ROUNDS // 2], low=low, high=high, n=number, unit="a core second")
