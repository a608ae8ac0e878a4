"""The signal `locality`: change outside of an edit's region is found, that of the placebo and of the inside is not."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from edited_groups import group
from PIL import Image

from actors.verifier.verifier import Verifier
from engine.regions import encode_region, join_regions
from engine.runfile.verifier import VerifierConfig
from engine.sample import Sample
from engine.sources.decode import encode_jpeg
from engine.wardrobe.garments import load_garments
from engine.wardrobe.scene import Scene, make_scenes, render

Pixels = np.ndarray
NUM = 60


def judged(samples: list[Sample], floor: float | None = None) -> dict[str, Sample]:
    config = {"signals": {"place": {"kind": "locality"}}, "floors": {} if floor is None else {"place": floor}}
    stage = Verifier(VerifierConfig.model_validate(config), torch.device("cpu"), name="verifier", offline=True)
    return {item.key: item for item in stage(samples) if isinstance(item, Sample)}


def score(samples: list[Sample]) -> float:
    return judged(samples)["a_cf00"].scores["place"]


def pictured(source: Pixels, edit: Pixels, mask: np.ndarray | None, placebo: Pixels | None = None) -> list[Sample]:
    """A source, its placebo if there is one, and an edit with a region if there is a mask."""
    found = group("a")
    assert found[2].edit is not None
    changed = replace(found[2].edit, region="" if mask is None else encode_region(mask))
    images = [source, source if placebo is None else placebo, edit]
    found = [
        replace(sample, image=encode_jpeg(Image.fromarray(pixels)))
        for sample, pixels in zip(found, images, strict=True)
    ]
    found[2] = replace(found[2], edit=changed)
    return found if placebo is not None else [found[0], found[2]]


def scenes() -> list[Scene]:
    return list(make_scenes(load_garments("heldout"), "locality", NUM))


def drawn(scene: Scene) -> tuple[Pixels, np.ndarray]:
    """The picture of a scene, and the region of its ground."""
    pixels, mask = render(scene, load_garments("heldout"))
    return pixels, mask == 0


def elsewhere(scene: Scene) -> Scene:
    return replace(scene, background="sand" if scene.background != "sand" else "snow")


def redrawn(pixels: Pixels, seed: int) -> Pixels:
    """What an editor makes of all pixels: a little blur, brightness and noise."""
    rng = np.random.default_rng(seed)
    blurred = (2.0 * pixels + np.roll(pixels, 1, 0) + np.roll(pixels, 1, 1)) / 4
    return (1.03 * blurred + rng.normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8)


def with_thing(pixels: Pixels, inside: np.ndarray) -> Pixels:
    """A disc of 6 pixels in another colour on the object, which was to stay."""
    rows, columns = np.nonzero(~inside)
    top, left = int(np.median(rows)), int(np.median(columns))
    y, x = np.ogrid[: pixels.shape[0], : pixels.shape[1]]
    near = (y - top) ** 2 + (x - left) ** 2 <= 9
    changed = pixels.copy()
    changed[near] = 255 - changed[near] // 2
    return changed


def test_a_thing_that_appears_outside_of_the_region_is_told_from_a_clean_edit() -> None:
    good, bad = [], []
    for place, scene in enumerate(scenes()):
        source, ground = drawn(scene)
        edit = redrawn(drawn(elsewhere(scene))[0], place)
        placebo = redrawn(source, NUM + place)
        good.append(score(pictured(source, edit, ground, placebo)))
        bad.append(score(pictured(source, with_thing(edit, ground), ground, placebo)))
    pairs = np.array(good)[:, None] - np.array(bad)[None, :]
    assert float((pairs > 0).mean()) > 0.95
    assert max(good) <= 0


def test_what_changes_inside_of_the_region_does_not_count() -> None:
    rng = np.random.default_rng(0)
    source = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    mask = np.zeros((48, 64), bool)
    mask[:24, :32] = True
    edit = source.copy()
    edit[:24, :32] = 255 - edit[:24, :32]
    found = score(pictured(source, edit, mask, source))
    assert -0.01 < found <= 0
    assert score(pictured(source, edit, ~mask, source)) < -0.1


def test_what_changes_inside_of_the_region_of_any_turn_does_not_count() -> None:
    source = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    first, second = np.zeros((48, 64), bool), np.zeros((48, 64), bool)
    first[:24, :32], second[24:, 32:] = True, True
    edit = np.where((first | second)[..., None], 255 - source, source)
    samples = pictured(source, edit, first, source)
    assert score(samples) < -0.1
    assert samples[2].edit is not None
    both = replace(samples[2].edit, region=join_regions(encode_region(first), encode_region(second)))
    assert -0.01 < score([*samples[:2], replace(samples[2], edit=both)]) <= 0


@pytest.mark.parametrize("change", [lambda x: (x * 0.7).astype(np.uint8), lambda x: redrawn(x, 3)])
def test_what_the_placebo_changes_too_is_excused(change: Callable[[Pixels], Pixels]) -> None:
    source, ground = drawn(scenes()[0])
    changed = change(source)
    assert score(pictured(source, changed, ground, changed)) == 0
    # Without a placebo nothing is.
    assert score(pictured(source, changed, ground)) < -0.005


def test_an_edit_that_leaves_the_outside_as_it_is_scores_nothing() -> None:
    flat = np.full((40, 40, 3), 90, np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[:8] = True
    found = score(pictured(flat, flat, mask, flat))
    assert (found, np.signbit(found)) == (0.0, False)


def test_pictures_and_region_may_differ_in_size() -> None:
    source, ground = drawn(scenes()[0])
    larger = np.asarray(Image.fromarray(source).resize((200, 200), Image.Resampling.BICUBIC))
    mask = np.asarray(Image.fromarray(ground).resize((128, 128), Image.Resampling.NEAREST))
    near, far = (score(pictured(source, each, mask, larger)) for each in (larger, 255 - larger))
    assert near == 0
    assert far < -0.1


@pytest.mark.parametrize("mask", [None, np.ones((64, 64), bool)])
def test_without_an_outside_the_score_is_undefined(mask: np.ndarray | None) -> None:
    source, _ = drawn(scenes()[0])
    samples = pictured(source, 255 - source, mask, source)
    found = judged(samples, floor=-0.1)
    assert np.isnan(found["a_cf00"].scores["place"])
    assert found["a_cf00"].verdict is not None
    assert found["a_cf00"].verdict.reasons == ("not_finite",)
    # A placebo has no region, and is not asked for one.
    assert found["a_placebo"].is_accepted


def test_scores_do_not_depend_on_neighbours() -> None:
    source, ground = drawn(scenes()[0])
    samples = pictured(source, redrawn(source, 1), ground, redrawn(source, 2))
    others = [replace(each, key=each.key.replace("a", "b", 1), source_key="b") for each in samples]
    assert judged(samples)["a_cf00"].scores == judged([*others, *samples])["a_cf00"].scores
