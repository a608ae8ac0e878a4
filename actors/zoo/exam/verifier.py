"""Examine the verifier: precision and recall of its rejections where some images were replaced by wrong ones."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.images.codec import encode_jpeg
from actors.verifier.verifier import Verifier
from actors.zoo.exam.editor import Edited, batch_of, targets
from actors.zoo.exam.scenes import CPU, JPEG_QUALITY, Bools, Exam, Floats, picture, ratio
from engine.figures.figures import Figure, share
from engine.runfile.verifier import VerifierConfig
from engine.sample import EditKind, ImageBytes, Sample, content_seed
from engine.wardrobe.garments import CLASSES, load_garments
from engine.wardrobe.scene import Scene

# Garments that are easily taken for one another, a group a line.
NEAR = (("t-shirt", "pullover", "coat", "shirt", "dress"), ("sandal", "sneaker", "ankle boot"))
WRONG = ("other_garment", "unchanged_source", "noise", "blank")
ONE_IN = 10


def verifier_figures(exam: Exam, config: VerifierConfig, edited: Edited, roc: Path) -> Iterator[Figure]:
    """Yield precision and recall of refusals where one edit in ten is a wrong image; write the ROC to `roc`."""
    kinds, refused, margin = _marked(exam, config)
    wrong, n = kinds != "", len(kinds)
    yield ratio("verifier.precision", wrong & refused, refused, 0.90)
    yield ratio("verifier.recall", wrong & refused, wrong, 0.85)
    for kind in WRONG:
        yield from _share_of(f"verifier.recall.{kind}", refused, kinds == kind)
    yield from _share_of("verifier.false_refusals", refused, ~wrong)
    false_rate, true_rate = roc_curve(-margin, wrong)
    roc.write_text(json.dumps({"false_refusal_rate": false_rate.tolist(), "recall": true_rate.tolist()}) + "\n")
    yield Figure(name="verifier.roc_area", value=float(np.trapezoid(true_rate, false_rate)), n=n)
    for rate in (0.005, 0.01, 0.02, 0.05, 0.1):
        recall = float(true_rate[false_rate <= rate].max())
        yield Figure(name=f"verifier.recall_at_false_refusals_of_{rate:g}", value=recall, n=n)
    yield from _near_swaps(exam, config, "")
    if config.signals:
        alone = VerifierConfig.model_validate(config.model_dump() | {"signals": {}, "floors": {}, "rule": {}})
        yield from _near_swaps(exam, alone, "clip_alone.")
    yield from _on_edits(exam, config, edited)


def _near_swaps(exam: Exam, config: VerifierConfig, name: str) -> Iterator[Figure]:
    """Yield how many edits are refused in which a garment has turned into a near one, and how many true edits.

    Both have the same ground, colour, place and size: nothing but the garment tells them apart.
    """
    kinds: tuple[EditKind, ...] = ("background", "colour")
    swapped, lost = [], []
    for kind in kinds:
        goals = targets(exam.scenes, kind)
        refused, _ = _judged(exam, config, kind, goals, [picture(_swapped(goal)) for goal in goals])
        lost.append(_judged(exam, config, kind, goals, [picture(goal) for goal in goals])[0])
        swapped.append(refused[[_near(goal) != () for goal in goals]])
    planted, true = np.concatenate(swapped), np.concatenate(lost)
    if not len(planted):
        return
    found = share(f"verifier.{name}near_swaps_refused", int(planted.sum()), len(planted))
    good_lost = share(f"verifier.{name}true_edits_refused", int(true.sum()), len(true))
    yield found if name else replace(found, target=0.90, better="higher")
    yield good_lost if name else replace(good_lost, target=0.02, better="lower")


def _near(scene: Scene) -> tuple[str, ...]:
    """Return the classes that a garment is easily taken for; none for a garment unlike all others."""
    group = next((each for each in NEAR if scene.class_name in each), ())
    return tuple(name for name in group if name != scene.class_name)


def _swapped(scene: Scene) -> Scene:
    """Return the composite with a garment of a near class in the same place; unchanged where there is none."""
    if not (near := _near(scene)):
        return scene
    rng = np.random.default_rng(content_seed(0, f"near swap/{scene.key}"))
    label = CLASSES.index(str(rng.choice(near)))
    return replace(scene, label=label, garment=int(rng.choice(load_garments("heldout").of_class(label))))


def roc_curve(score: Floats, positive: Bools) -> tuple[Floats, Floats]:
    """Return false and true positive rates at every threshold, from (0, 0) to (1, 1), ties together."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)
    true = np.cumsum(positive[order])[last] / max(int(positive.sum()), 1)
    false = np.cumsum(~positive[order])[last] / max(int((~positive).sum()), 1)
    return np.append(0.0, false), np.append(0.0, true)


def _marked(exam: Exam, config: VerifierConfig) -> tuple[NDArray[np.str_], Bools, Floats]:
    """Judge true counterfactuals of two kinds, one in ten of them replaced.

    Returns for each edit what replaced its picture ("" for nothing), whether it was rejected, and its margin.
    """
    kinds: tuple[EditKind, ...] = ("background", "colour")
    rng = np.random.default_rng(0)
    names, rejections, margins = [], [], []
    for kind in kinds:
        goals = targets(exam.scenes, kind)
        wrong = [WRONG[index // ONE_IN % len(WRONG)] if index % ONE_IN == 0 else "" for index in range(len(goals))]
        rng.shuffle(wrong)
        images = [_image(rng, name, scene, goal) for name, scene, goal in zip(wrong, exam.scenes, goals, strict=True)]
        refused, margin = _judged(exam, config, kind, goals, images)
        names += wrong
        rejections.append(refused)
        margins.append(margin)
    return np.array(names), np.concatenate(rejections), np.concatenate(margins)


def _image(rng: np.random.Generator, wrong: str, scene: Scene, goal: Scene) -> bytes:
    """Return the true edit, or what was put in its place."""
    match wrong:
        case "other_garment":
            label = int(rng.choice([label for label in range(len(CLASSES)) if label != goal.label]))
            garment = int(rng.choice(load_garments("heldout").of_class(label)))
            return picture(replace(goal, label=label, garment=garment))
        case "unchanged_source":
            return picture(scene)
        case "noise":
            return encode_jpeg(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), JPEG_QUALITY)
        case "blank":
            colour = rng.integers(0, 256, 3, dtype=np.uint8)
            return encode_jpeg(np.tile(colour, (64, 64, 1)), JPEG_QUALITY)
        case _:
            return picture(goal)


def _judged(
    exam: Exam, config: VerifierConfig, kind: EditKind, goals: Sequence[Scene], images: Sequence[ImageBytes]
) -> tuple[Bools, Floats]:
    """Return which edits the verifier rejects, and by how much the score nearest to its floor is above it."""
    stage = Verifier(config, CPU, name="verifier", offline=True)
    results = stage(batch_of(exam, kind, goals, images))
    judged = [item for item in results if isinstance(item, Sample) and item.role != "source"]
    floors = {
        "image": config.min_image,
        "text_edit": config.min_text,
        "directional": config.min_directional,
        "contrast": config.min_contrast,
        "consistency": 0.0,
    }
    refused = np.array([item.verdict is None or not item.verdict.accepted for item in judged])
    above = np.array([[item.scores[name] - floor for name, floor in floors.items()] for item in judged])
    return refused, np.nan_to_num(above, nan=-2.0).min(1)


def _on_edits(exam: Exam, config: VerifierConfig, edited: Edited) -> Iterator[Figure]:
    """Yield what is accepted of the editor's own background edits, by whether the judge finds them right."""
    refused, _ = _judged(exam, config, "background", edited.scenes, edited.images)
    right = exam.right(edited.images, edited.scenes)
    good = right["background"] & right["class"] & right["colour"]
    yield from _share_of("verifier.accepts.edits_judged_right", ~refused, good)
    yield from _share_of("verifier.accepts.edits_judged_wrong", ~refused, ~good)


def _share_of(name: str, found: Bools, among: Bools) -> Iterator[Figure]:
    """Yield the share of `among` that was found; nothing where there is none, as with few scenes."""
    if among.any():
        yield share(name, int((found & among).sum()), int(among.sum()))
