"""Profiles of other colour spaces are converted to sRGB by their numbers, in every mode that has one."""

import io
from itertools import product

import numpy as np
import pytest
from odd_pictures import (
    ADOBE_RGB,
    DISPLAY_P3,
    PROPHOTO,
    SRGB,
    as_srgb,
    cmyk_profile,
    grey_profile,
    photo,
    rgb_profile,
)
from PIL import Image, ImageCms

from engine.sources.formats.colour import is_srgb, to_srgb

# No channel of theirs is beyond sRGB, where programs differ in how they cut.
COLOURS = np.array(list(product((90, 140, 190), repeat=3)), np.uint8)[None]
SRGB_ITSELF = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SPACES = {"Display P3": (DISPLAY_P3, 2.2), "Adobe RGB": (ADOBE_RGB, 2.19921875), "ProPhoto": (PROPHOTO, 1.8)}


def tagged(image: Image.Image, profile: bytes) -> Image.Image:
    image.info["icc_profile"] = profile
    return image


@pytest.mark.parametrize("space", SPACES)
def test_wide_colours_come_out_as_the_formulas_say(space: str) -> None:
    primaries, gamma = SPACES[space]
    expected = as_srgb(COLOURS, primaries, gamma)
    inside = ((expected > 2) & (expected < 253)).all(axis=2)
    assert inside.sum() >= 8
    found = np.asarray(to_srgb(tagged(Image.fromarray(COLOURS), rgb_profile(primaries, gamma))), float)
    assert np.abs(found - expected)[inside].max() <= 1.5
    assert np.abs(COLOURS - expected)[inside].max() > 20  # what was kept before


def test_a_profile_of_srgb_itself_changes_nothing() -> None:
    for profile in (SRGB_ITSELF, b""):
        image = tagged(photo(), profile)
        assert is_srgb(image)
        assert to_srgb(image) is image
    assert not is_srgb(tagged(photo(), rgb_profile(SRGB, 1.8)))


@pytest.mark.parametrize("profile", [b"x" * 200, rgb_profile(ADOBE_RGB, 2.2)[:300], cmyk_profile(), grey_profile(1.0)])
def test_a_profile_that_is_broken_or_of_another_kind_of_image_is_ignored(profile: bytes) -> None:
    image = tagged(photo(), profile)
    assert to_srgb(image) is image


def test_a_grey_profile_converts_grey() -> None:
    ramp = Image.fromarray(np.arange(0, 256, 5, dtype=np.uint8)[None])
    expected = as_srgb(np.repeat(np.asarray(ramp)[..., None], 3, axis=2), SRGB, 1.0)
    found = to_srgb(tagged(ramp, grey_profile(1.0)))
    assert found.mode == "RGB"
    assert np.abs(np.asarray(found, float) - expected).max() <= 1
    assert to_srgb(tagged(ramp, rgb_profile(ADOBE_RGB, 2.2))) is ramp


def test_inks_are_converted_by_the_table_of_their_profile() -> None:
    inks = Image.new("CMYK", (3, 1))
    inks.putpixel((1, 0), (0, 0, 0, 128))
    inks.putpixel((2, 0), (0, 0, 0, 255))
    profile = cmyk_profile(darkest=40)
    half, black = (((level / 255 * 100 + 16) / 116) ** 3 for level in ((255 * 127 + 40 * 128) / 255, 40))
    # The darkest colour of the inks becomes black, as everywhere since version 4 of ICC (black point compensation).
    light = (half - black) / (1 - black)
    grey = 255 * (1.055 * light ** (1 / 2.4) - 0.055)
    found = np.asarray(to_srgb(tagged(inks, profile)), float)[0, :, 1]
    assert np.abs(found - [255, grey, 0]).max() <= 1
    assert abs(grey - 127) > 5  # what plain arithmetic makes of half a black


def test_transparency_is_kept() -> None:
    profile = rgb_profile(ADOBE_RGB, 2.2)
    colours = photo(8, 8)
    expected = np.asarray(to_srgb(tagged(colours.copy(), profile)))
    alpha = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    layers = colours.copy()
    layers.putalpha(alpha)
    found = to_srgb(tagged(layers, profile))
    assert (found.mode, np.asarray(found.getchannel("A")).tolist()) == ("RGBA", np.asarray(alpha).tolist())
    assert np.array_equal(np.asarray(found.convert("RGB")), expected)
    grey = Image.merge("LA", (colours.convert("L"), alpha))
    assert to_srgb(tagged(grey, grey_profile(1.0))).mode == "RGBA"


def test_a_palette_is_converted_by_its_colours() -> None:
    profile = rgb_profile(DISPLAY_P3, 2.2)
    image = photo().quantize(16)
    expected = to_srgb(tagged(image.convert("RGB"), profile))
    assert np.array_equal(np.asarray(to_srgb(tagged(image, profile))), np.asarray(expected))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=3, icc_profile=profile)
    assert to_srgb(Image.open(buffer)).mode == "RGBA"


def test_lab_is_converted_once() -> None:
    lab = ImageCms.profileToProfile(
        photo(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    found = np.asarray(to_srgb(lab).convert("RGB"), int)
    assert np.abs(found - np.asarray(photo(), int)).mean() < 3
