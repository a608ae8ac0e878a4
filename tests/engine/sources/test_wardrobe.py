"""The wardrobe: disjoint splits, scenes that are what they say, and pictures with exact ground truth."""

import gzip
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.errors import SourceError
from engine.wardrobe.garments import CLASSES, SPLIT_SIZES, Garments, load_garments, read_fashion_mnist, split_garments
from engine.wardrobe.scene import (
    BACKGROUNDS,
    COLOURS,
    LIGHTS,
    OWN_BACKGROUND,
    SIZE,
    Scene,
    caption,
    make_scene,
    make_scenes,
    render,
    with_article,
)


@cache
def scenes(count: int, correlation: float | None = None, seed: int = 0) -> list[Scene]:
    return list(make_scenes(load_garments("heldout"), "heldout", count, correlation=correlation, seed=seed))


def picture(scene: Scene) -> NDArray[np.int16]:
    return render(scene, load_garments("heldout"))[0].astype(np.int16)


def mask(scene: Scene) -> NDArray[np.uint8]:
    return render(scene, load_garments("heldout"))[1]


def numbered_garments() -> Garments:
    """Return a stand-in for the train split in which every photograph spells its own row in its first four bytes."""
    rows = np.arange(sum(SPLIT_SIZES.values()), dtype="<u4")
    images = np.zeros((len(rows), 28, 28), np.uint8)
    images[:, 0, :4] = rows.view(np.uint8).reshape(-1, 4)
    return Garments(images=images, labels=(rows % len(CLASSES)).astype(np.uint8))


def write_idx(path: Path, data: NDArray[np.uint8]) -> None:
    header = bytes((0, 0, 8, data.ndim)) + b"".join(size.to_bytes(4, "big") for size in data.shape)
    path.write_bytes(gzip.compress(header + data.tobytes(), 1) if path.suffix == ".gz" else header + data.tobytes())


# Garments


def test_no_garment_is_in_two_splits_and_none_is_lost() -> None:
    splits = split_garments(numbered_garments())
    rows = [split.images[:, 0, :4].copy().view("<u4").ravel() for split in splits.values()]
    assert {name: len(split.labels) for name, split in splits.items()} == SPLIT_SIZES
    assert np.array_equal(np.sort(np.concatenate(rows)), np.arange(60_000))


def test_every_split_has_a_tenth_of_each_class() -> None:
    for split in split_garments(numbered_garments()).values():
        assert set(np.bincount(split.labels)) == {len(split.labels) // 10}


def test_a_garment_keeps_its_label_through_the_split() -> None:
    for split in split_garments(numbered_garments()).values():
        rows = split.images[:, 0, :4].copy().view("<u4").ravel()
        assert np.array_equal(rows % len(CLASSES), split.labels)


def test_the_shipped_splits_are_balanced_and_share_no_photograph() -> None:
    sources, heldout = load_garments("sources"), load_garments("heldout")
    for split in (sources, heldout):
        assert split.images.shape == (4000, 28, 28)
        assert np.bincount(split.labels).tolist() == [400] * 10
    assert not {image.tobytes() for image in sources.images} & {image.tobytes() for image in heldout.images}


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_fashion_mnist_is_found_in_depth_packed_or_not(tmp_path: Path, suffix: str) -> None:
    images = np.arange(3 * 28 * 28, dtype=np.uint16).astype(np.uint8).reshape(3, 28, 28)
    folder = tmp_path / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    write_idx(folder / f"train-images-idx3-ubyte{suffix}", images)
    write_idx(folder / f"train-labels-idx1-ubyte{suffix}", np.array([9, 0, 3], np.uint8))
    garments = read_fashion_mnist(tmp_path)
    assert np.array_equal(garments.images, images)
    assert garments.labels.tolist() == [9, 0, 3]


def test_a_folder_without_fashion_mnist_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has no train-images-idx3-ubyte: install Debian's package"):
        read_fashion_mnist(tmp_path)
    with pytest.raises(SourceError, match="install Debian's package"):
        read_fashion_mnist(tmp_path / "nowhere")


# Scenes


def test_a_scene_depends_on_its_arguments_alone() -> None:
    garments = load_garments("heldout")
    np.random.seed(0)  # the global generator must not matter
    alone = make_scene(garments, "heldout", 37)
    assert scenes(60)[37] == alone
    assert scenes(40) == scenes(60)[:40]


def test_another_seed_or_name_gives_other_scenes() -> None:
    garments = load_garments("heldout")
    first = make_scene(garments, "heldout", 5)
    assert make_scene(garments, "heldout", 5, seed=1).crop != first.crop
    assert make_scene(garments, "other", 5).crop != first.crop


def test_keys_are_unique_and_have_no_dots() -> None:
    keys = [scene.key for scene in scenes(8000)]
    assert len(set(keys)) == 8000
    assert not any("." in key or "/" in key or " " in key for key in keys)


def test_a_scene_names_the_class_of_its_garment() -> None:
    labels = load_garments("heldout").labels
    assert all(labels[scene.garment] == scene.label for scene in scenes(800))


def test_each_garment_is_used_as_often_as_any_other() -> None:
    assert set(Counter(scene.garment for scene in scenes(8000)).values()) == {2}


def test_a_balanced_set_has_every_class_on_every_background_equally_often() -> None:
    groups = Counter((scene.label, scene.background) for scene in scenes(8000))
    assert set(groups) == set(product(range(len(CLASSES)), BACKGROUNDS))
    assert set(groups.values()) == {100}


def test_a_balanced_set_shows_a_garment_on_another_background_the_second_time() -> None:
    seen = {(scene.garment, scene.background) for scene in scenes(8000)}
    assert len(seen) == 8000


def test_colours_are_spread_evenly_over_classes_and_backgrounds() -> None:
    colours = Counter(scene.colour for scene in scenes(8000))
    assert all(abs(count - 1000) < 150 for count in colours.values())
    assert len({(scene.label, scene.colour) for scene in scenes(8000)}) == len(CLASSES) * len(COLOURS)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95, 1.0])
def test_the_correlation_is_honoured_in_every_class(correlation: float) -> None:
    drawn = scenes(4000, correlation)
    for label in range(len(CLASSES)):
        own = np.mean([scene.background == OWN_BACKGROUND[label] for scene in drawn if scene.label == label])
        # 400 draws: four standard errors.
        assert abs(own - correlation) <= 4 * (correlation * (1 - correlation) / 400) ** 0.5


def test_sets_of_other_correlations_have_other_keys_and_no_key_has_a_dot() -> None:
    keys = [scene.key for correlation in (None, 0.99, 0.998, 1.0) for scene in scenes(4, correlation)]
    assert len(set(keys)) == len(keys)
    assert not any("." in key for key in keys)


def test_what_breaks_the_correlation_is_spread_over_the_other_backgrounds() -> None:
    conflicts = Counter(scene.background for scene in scenes(4000, 0.0) if scene.label == 0)
    assert set(conflicts) == set(BACKGROUNDS) - {OWN_BACKGROUND[0]}
    assert max(conflicts.values()) < 2 * min(conflicts.values())


# Captions


def test_a_caption_says_what_is_in_the_scene() -> None:
    for scene in scenes(400):
        phrase, background = caption(scene).removeprefix("a photo of ").split(" on ")
        assert background == scene.background
        assert phrase == with_article(f"{scene.colour} {scene.class_name}")


def test_a_caption_names_a_light_that_is_not_plain() -> None:
    scene = replace(scenes(1)[0], label=7, colour="red", background="grass")
    assert caption(scene) == "a photo of a red sneaker on grass"
    assert caption(replace(scene, light="dim")) == "a photo of a red sneaker on grass in dim light"


@pytest.mark.parametrize(
    ("phrase", "said"),
    [
        ("orange bag", "an orange bag"),
        ("ankle boot", "an ankle boot"),
        ("t-shirt", "a t-shirt"),
        ("red ankle boot", "a red ankle boot"),
    ],
)
def test_articles_follow_the_first_letter(phrase: str, said: str) -> None:
    assert with_article(phrase) == said


# Pictures


def test_the_same_scene_gives_the_same_pixels() -> None:
    for scene in scenes(20):
        first, second = (render(scene, load_garments("heldout")) for _ in range(2))
        assert first[0].tobytes() == second[0].tobytes()
        assert first[1].tobytes() == second[1].tobytes()


def test_every_class_is_rendered_on_every_background_inside_the_frame() -> None:
    for scene in scenes(10):
        for background in BACKGROUNDS:
            pixels, cover = render(replace(scene, background=background), load_garments("heldout"))
            assert pixels.shape == (64, 64, 3)
            assert cover.shape == (64, 64)
            assert pixels.dtype == cover.dtype == np.uint8
            rows, columns = np.nonzero(cover)
            assert rows.min() >= scene.top
            assert rows.max() < scene.top + scene.size <= SIZE
            assert columns.min() >= scene.left
            assert columns.max() < scene.left + scene.size <= SIZE


def test_every_garment_covers_some_of_the_picture_and_never_all_of_it() -> None:
    shares = np.array([(mask(scene) > 127).mean() for scene in scenes(400)])
    assert shares.min() > 0.02
    assert shares.max() < 0.8


def test_another_background_leaves_the_garment_and_moves_the_rest() -> None:
    for scene in scenes(40):
        other = replace(scene, background=BACKGROUNDS[(BACKGROUNDS.index(scene.background) + 1) % 8])
        difference = np.abs(picture(scene) - picture(other)).max(-1)
        assert np.array_equal(mask(scene), mask(other))
        assert difference[mask(scene) == 255].max() == 0
        assert difference[mask(scene) == 0].mean() > 10


def test_another_colour_leaves_the_background_and_moves_the_garment() -> None:
    for scene in scenes(40):
        other = replace(scene, colour="black" if scene.colour != "black" else "yellow")
        difference = np.abs(picture(scene) - picture(other)).max(-1)
        assert difference[mask(scene) == 0].max() == 0
        assert difference[mask(scene) == 255].mean() > 10


def test_a_garment_has_the_hue_of_its_colour() -> None:
    for scene, colour in product(scenes(10), COLOURS):
        tinted = replace(scene, colour=colour)
        seen = picture(tinted)[mask(tinted) == 255].mean(0)
        hue = np.array(COLOURS[colour], np.float64)
        assert seen @ hue / np.linalg.norm(seen) / np.linalg.norm(hue) > 0.995


def test_a_garment_stands_out_from_every_background_in_every_colour() -> None:
    """The contrast is between the outline's two sides, in grey levels, averaged over the classes."""
    for background, colour in product(BACKGROUNDS, COLOURS):
        contrasts = []
        for scene in scenes(10):
            shown = replace(scene, background=background, colour=colour)
            pixels, cover = picture(shown), mask(shown)
            contrasts.append(np.abs(pixels[cover == 255].mean(0) - pixels[cover == 0].mean(0)).max())
        assert np.mean(contrasts) > 25, f"{colour} on {background}"


def test_a_light_changes_the_whole_picture_and_not_the_mask() -> None:
    scene = scenes(1)[0]
    for light in set(LIGHTS) - {"plain"}:
        lit = replace(scene, light=light)
        assert np.abs(picture(lit) - picture(scene)).max(-1).mean() > 10
        assert np.array_equal(mask(lit), mask(scene))


def test_a_light_grows_with_its_severity_from_none_at_zero() -> None:
    scene = scenes(1)[0]
    assert np.array_equal(picture(replace(scene, light="dim", severity=0.0)), picture(scene))
    for light in set(LIGHTS) - {"plain"}:
        changes = [
            np.abs(picture(replace(scene, light=light, severity=severity)) - picture(scene)).mean()
            for severity in (0.25, 0.5, 0.75, 1.0)
        ]
        assert changes == sorted(changes)
        assert changes[0] > 0


def test_neighbours_of_a_balanced_set_stand_on_different_backgrounds() -> None:
    for start in (0, 40, 990):
        neighbours = [make_scene(load_garments("heldout"), "near", start + place) for place in range(8)]
        assert len({scene.background for scene in neighbours}) == 8


def test_a_dark_photograph_takes_on_its_colour_and_its_seams_are_closed() -> None:
    garments = load_garments("heldout")
    photo = np.zeros((28, 28), np.uint8)
    photo[6:22, 6:22] = 60  # a dark garment
    photo[6:22, 14] = 0  # with a black seam
    dark = replace(garments, images=np.concatenate([garments.images, photo[None]]))
    scene = replace(scenes(1)[0], garment=len(garments.images), colour="red", background="snow", light="plain")
    pixels, cover = render(scene, dark)
    inside = np.s_[
        scene.top + scene.size // 2 - 4 : scene.top + scene.size // 2 + 4,
        scene.left + scene.size // 2 - 4 : scene.left + scene.size // 2 + 4,
    ]
    assert (cover[inside] == 255).all()
    cloth = pixels[scene.top + scene.size // 2, scene.left + scene.size // 3]
    assert np.abs(cloth.astype(int) - COLOURS["red"]).max() <= 2
