"""Learned words and LoRAs as sliders: of edits of five classes, drawn at four severities on garments of five others.

Each of the eight grounds is learned with a word that says nothing of it, so that all it knows comes from the pairs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray

from actors.editor.editor import Editor
from actors.editor.learning.card import Card
from actors.zoo import MODELS_FOLDER
from actors.zoo.exam.editor import edit_of
from actors.zoo.exam.evaluate import stage_of
from actors.zoo.exam.scenes import CPU, captioned, pixels, source
from actors.zoo.recipes.backbone import AttributeClassifier
from actors.zoo.recipes.judge import load_judge
from actors.zoo.recipes.training.pictures import in_parts
from cluster.phases.learn import LearnRequest, learn_run
from cluster.session.session import num_cores
from cluster.studies.proofs.edits import RUN_FILE, make_edits
from engine.errors import RunError
from engine.figures.figures import Figure, share
from engine.run.directory import RunDirectory
from engine.runfile.editor import AdapterConfig, AdapterKind, EditorConfig
from engine.runfile.fields import Placement
from engine.runfile.load import load_run_file
from engine.runfile.run import RunFile
from engine.sample import Edit, Sample
from engine.wardrobe.garments import CLASSES, load_garments
from engine.wardrobe.scene import BACKGROUNDS, Scene, make_scenes

SEVERITIES = (0.25, 0.5, 0.75, 1.0)
LEARNED_FROM, UNSEEN = CLASSES[::2], CLASSES[1::2]
SETTINGS = ("name=slider", "data.num_sources=400", "stages.perturber.edits={background: 2}")
# A word that no ground has to do with.
START = "the"
NUM_STEPS = 200
# Early steps lay out the picture without the LoRA, as in CNS-Bench (2025).
LORA_STEPS = (0.25, 1.0)
NUM_SOURCES = 100  # for each ground
LEAST_MONOTONE = 0.8

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Slid:
    """What the judge sees in the edits of one ground: `probability` (num_sources, num_severities) of that ground.

    `seen` says whether it is the likeliest ground at severity 1, (num_sources,).
    """

    probability: Floats
    seen: NDArray[np.bool_]

    @property
    def monotone(self) -> tuple[int, int]:
        """Return at how many steps between severities the probability does not fall, and of how many."""
        steps = np.diff(self.probability, axis=1)
        return int((steps >= 0).sum()), steps.size

    @property
    def seen_at_most(self) -> tuple[int, int]:
        """Return in how many edits at severity 1 the ground is seen, and of how many."""
        return int(self.seen.sum()), self.seen.size


@dataclass(frozen=True)
class Slides:
    """Draws edits of held-out garments of the unseen classes, at all severities, and asks the judge."""

    judge: AttributeClassifier

    @cached_property
    def scenes(self) -> list[Scene]:
        """Return the composites to edit, of the unseen classes on every ground."""
        garments = load_garments("heldout")
        # Half are of unseen classes, an eighth of these on the ground itself.
        scenes = make_scenes(garments, "slider", 3 * NUM_SOURCES)
        return [scene for scene in scenes if scene.class_name in UNSEEN]

    def of_grounds(self, editor: Editor, word: str | None = None) -> dict[str, Slid]:
        """Return what the judge sees in the edits to each ground; with `word` in its place in the instructions."""
        return {ground: self.of(editor, ground, word) for ground in BACKGROUNDS}

    def of(self, editor: Editor, ground: str, word: str | None) -> Slid:
        """Return what the judge sees in the edits to one ground."""
        scenes = [scene for scene in self.scenes if scene.background != ground][:NUM_SOURCES]
        sources = captioned([source(scene) for scene in scenes], scenes)
        edits = [
            replace(
                sample,
                key=f"{sample.key}_{round(100 * severity)}",
                role="counterfactual",
                image=b"",
                edit=_worded(edit_of("background", scene, replace(scene, background=ground), severity), word),
            )
            for sample, scene in zip(sources, scenes, strict=True)
            for severity in SEVERITIES
        ]
        made = [item for item in editor([*sources, *edits]) if isinstance(item, Sample)]
        if len(made) != len(sources) + len(edits):
            raise RunError(f"the editor gave up {len(sources) + len(edits) - len(made)} edits to {ground}")
        likely = self._probabilities(made[len(sources) :]).reshape(len(scenes), len(SEVERITIES), len(BACKGROUNDS))
        place = BACKGROUNDS.index(ground)
        return Slid(probability=likely[..., place], seen=likely[:, -1].argmax(-1) == place)

    def _probabilities(self, samples: Sequence[Sample]) -> Floats:
        pictures = pixels([sample.image for sample in samples])

        def judged(images: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(self.judge(images)["background"].softmax(-1))

        return np.asarray(in_parts(judged, pictures, CPU), np.float64)


def slider_figures(folder: Path) -> Iterator[Figure]:
    """Yield how steadily words and LoRAs rise with severity, how often the judge sees their ground, and what they cost.

    Beside them stand the editor's own words for the grounds, and START, which the learned words began as and which
    stands for the ground in the texts of the LoRAs.
    """
    run = load_run_file(RUN_FILE, SETTINGS)
    rundir = make_edits(folder, run)
    # Of this run directory alone: another state of the zoo has other edits.
    learned = Path(f"{rundir.storage.root}-learned")
    words, loras = _learned_all(rundir, learned / "token", "token"), _learned_all(rundir, learned / "lora", "lora")
    slides = Slides(load_judge(MODELS_FOLDER / "judge"))
    plain = make_editor(run, ())
    found = {
        "learned": slides.of_grounds(make_editor(run, words.adapters)),
        "lora": slides.of_grounds(make_editor(run, loras.adapters)),
        "own_word": slides.of_grounds(plain),
        "start_word": slides.of_grounds(plain, START),
    }
    yield from _pooled(found)
    for ground in BACKGROUNDS:
        for name in ("learned", "lora", "own_word"):
            yield share(f"slider.{name}.monotone_steps.{ground}", *found[name][ground].monotone)
            yield share(f"slider.{name}.seen.{ground}", *found[name][ground].seen_at_most)
    yield _set_up_cost("slider.set_up_cost", words.cards)
    yield _set_up_cost("slider.lora.set_up_cost", loras.cards)
    yield Figure(
        name="slider.pairs",
        value=fmean(card.num_pairs for card in words.cards),
        n=len(words.cards),
        unit="pairs",
    )


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What was learned of each ground, one kind for all of them."""

    cards: list[Card]
    adapters: tuple[AdapterConfig, ...]


def _set_up_cost(name: str, cards: Sequence[Card]) -> Figure:
    """Return the mean of the seconds of learning, between the least and the most."""
    seconds = [card.seconds for card in cards]
    return Figure(name=name, value=fmean(seconds), low=min(seconds), high=max(seconds), n=len(seconds), unit="s")


def _pooled(found: Mapping[str, Mapping[str, Slid]]) -> Iterator[Figure]:
    """Yield the shares over all grounds; the target is that of what was learned."""
    for name, slid in found.items():
        target = LEAST_MONOTONE if name in ("learned", "lora") else None
        yield share(f"slider.{name}.monotone_steps", *_summed(each.monotone for each in slid.values()), target)
        yield share(f"slider.{name}.seen", *_summed(each.seen_at_most for each in slid.values()))
        for place, severity in enumerate(SEVERITIES):
            mean = fmean(float(each.probability[:, place].mean()) for each in slid.values())
            yield Figure(name=f"slider.{name}.probability_at_{severity:g}", value=mean)


def _summed(counts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return the sums of counts and of what they are of."""
    right, of = zip(*counts, strict=True)
    return sum(right), sum(of)


def _learned_all(rundir: RunDirectory, folder: Path, kind: AdapterKind) -> Learned:
    """Learn each ground, but for those that were learned."""
    cards = []
    for ground in BACKGROUNDS:
        request = LearnRequest(after=ground, kind=kind, classes=LEARNED_FROM, start=START, num_steps=NUM_STEPS)
        cards.append(learn_run(rundir, request, folder / ground, Placement(num_threads=num_cores())))
    steps = LORA_STEPS if kind == "lora" else (0.0, 1.0)
    adapters = tuple(
        AdapterConfig(value=ground, path=str((folder / ground).resolve()), kind=kind, steps=steps)
        for ground in BACKGROUNDS
    )
    return Learned(cards=cards, adapters=adapters)


def make_editor(run: RunFile, adapters: tuple[AdapterConfig, ...]) -> Editor:
    """Return the run's editor with what was learned."""
    config = stage_of(run, EditorConfig).model_copy(update={"adapters": adapters})
    return Editor(config, CPU, name="editor", seed=run.seed, offline=True)


def _worded(edit: Edit, word: str | None) -> Edit:
    return edit if word is None else replace(edit, instruction=edit.instruction.replace(edit.after, word))
