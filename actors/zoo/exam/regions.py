"""Examine the segmenter: does it find garments and things by their names, and nothing where a thing is not there?"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from actors.regions.finder import THRESHOLD
from actors.regions.make import make_finder
from actors.zoo.exam.scenes import CPU, Bools, Floats, bootstrapped
from engine.figures.figures import Figure, share
from engine.runfile.fields import ModelConfig
from engine.wardrobe.garments import load_garments
from engine.wardrobe.scene import make_scenes, render, thing_mask
from engine.wardrobe.things import THINGS

MODEL = ModelConfig(name="zoo/segmenter")
# A thing is found where its region overlaps the true one by this much, and where it is not there by these pixels.
LEAST_OVERLAP, LEAST_PIXELS = 0.3, 8


def segmenter_figures(num_scenes: int) -> Iterator[Figure]:
    """Yield overlaps (intersection over union) with the true masks of held-out composites with a thing beside each."""
    garments = load_garments("heldout")
    scenes = list(make_scenes(garments, "zoo-eval-regions", num_scenes, has_thing=True))
    pictures, masks = zip(*(render(scene, garments) for scene in scenes), strict=True)
    absent = [THINGS[(THINGS.index(scene.thing) + 1) % len(THINGS)] for scene in scenes]
    finder = make_finder(MODEL, None, CPU, batch_size=32, offline=True)

    def found(words: list[str]) -> list[Bools]:
        return [_is_there(region) for region in finder(pictures, words)]

    of_garments = _overlaps(found([scene.class_name for scene in scenes]), [mask > 127 for mask in masks])
    of_things = _overlaps(found([scene.thing for scene in scenes]), [thing_mask(scene) > 127 for scene in scenes])
    nothing = [int(region.sum()) >= LEAST_PIXELS for region in found(absent)]
    for name, overlaps, target in (("garment", of_garments, 0.75), ("thing", of_things, 0.6)):
        mean = partial(_mean_of, overlaps)
        yield bootstrapped(f"segmenter.{name}_overlap", mean, num_scenes, target)
    yield share("segmenter.thing_found", int((of_things >= LEAST_OVERLAP).sum()), num_scenes, 0.95)
    yield share("segmenter.absent_thing_found", sum(nothing), num_scenes, 0.05, better="lower")


def _is_there(region: torch.Tensor) -> Bools:
    return np.asarray(region.numpy() > THRESHOLD)


def _mean_of(values: Floats, rows: NDArray[np.intp]) -> float:
    return float(values[rows].mean())


def _overlaps(found: list[Bools], true: list[Bools]) -> Floats:
    return np.array(
        [(left & right).sum() / max((left | right).sum(), 1) for left, right in zip(found, true, strict=True)]
    )
