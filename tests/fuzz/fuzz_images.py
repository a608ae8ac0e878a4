"""Random pictures, whole and damaged, read by us and by a second reader; `make fuzz` runs TESTS."""

import io
import zlib
from collections.abc import Callable

import numpy as np
import simplejpeg
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from odd_pictures import (
    ADOBE_RGB,
    DISPLAY_P3,
    PROPHOTO,
    SRGB,
    as_srgb,
    chunk,
    encoded,
    photo,
    png_16,
    rgb_profile,
    scan_start,
    tiff,
)
from PIL import Image, ImageOps

from engine.sources import UnreadableItemError
from engine.sources.decode import Reading, grey_pixels, has_contrast, is_plain_jpeg, to_jpeg, to_png, wide_values
from engine.sources.formats.jpeg import jpeg_damage

Pixels = NDArray[np.uint8]

SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70))
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "RGB", "RGBA", "CMYK"),
    "BMP": ("1", "L", "P", "RGB"),
    "GIF": ("L", "P"),
    "PPM": ("1", "L", "RGB"),
    "TGA": ("L", "RGB", "RGBA"),
    "JPEG": ("L", "RGB", "CMYK"),
    "AVIF": ("RGB", "RGBA"),
    "JPEG2000": ("L", "RGB", "RGBA"),
}
LOSSLESS = {"WEBP": {"lossless": True, "exact": True}}
SPACES = {
    "sRGB": (SRGB, 2.2),
    "Display P3": (DISPLAY_P3, 2.2),
    "Adobe RGB": (ADOBE_RGB, 2.2),
    "ProPhoto": (PROPHOTO, 1.8),
}
# Kinds of numbers in a file and the ranges that they are written in.
DEEP = {"u2": (255, 1023, 4095, 16383, 65535), "i4": (255, 4095, 65535), "f4": (1, 255, 4095)}


@st.composite
def pictures(draw: st.DrawFn) -> tuple[str, Image.Image]:
    """Draw a format and a picture in one of its modes."""
    kind = draw(st.sampled_from(sorted(MODES)))
    image = photo(*draw(SIZES), seed=draw(st.integers(0, 99)))
    if draw(st.booleans()):
        image.putalpha(photo(*image.size, seed=7).convert("L"))
    return kind, image.convert(draw(st.sampled_from(MODES[kind])))


@given(picture=pictures(), orientation=st.integers(1, 8), progressive=st.booleans(), quality=st.integers(1, 100))
def whole_pictures_are_read_as_pillow_reads_them(
    picture: tuple[str, Image.Image], orientation: int, progressive: bool, quality: int
) -> None:
    """Compare with Pillow's pixels, turned and laid on white by arithmetic of our own."""
    kind, image = picture
    settings = dict(LOSSLESS.get(kind, {}))
    if kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        exif = Image.Exif()
        exif[0x0112] = orientation
        settings["exif"] = exif
    if kind == "JPEG":
        settings |= {"progressive": progressive, "quality": quality, "subsampling": 0}
    data = encoded(image, kind, **settings)
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        upright = ImageOps.exif_transpose(opened)
    layers = np.asarray(upright.convert("RGBA"), float)
    expected = layers[..., :3] * layers[..., 3:] / 255 + 255 - layers[..., 3:]
    assert np.abs(_pixels(to_png(data)) - expected).max() <= 1
    stored = to_jpeg(data)
    assert jpeg_damage(data) is None
    assert to_jpeg(stored) == stored
    assert (stored == data) is is_plain_jpeg(data)
    assert _pixels(stored).shape == expected.shape
    assert grey_pixels(data, 16).shape == (16, 16)
    assert has_contrast(data) is bool(np.ptp(_pixels(to_png(data)).reshape(-1, 3), axis=0).any())


@given(
    size=SIZES,
    seed=st.integers(0, 99),
    space=st.sampled_from(sorted(SPACES)),
    kind=st.sampled_from(["PNG", "TIFF", "WEBP"]),
    is_raw=st.booleans(),
)
def colours_are_those_of_the_formulas(size: tuple[int, int], seed: int, space: str, kind: str, is_raw: bool) -> None:
    """Compare with the matrices of the colour spaces, where the result is not beyond sRGB."""
    image = photo(*size, seed=seed)
    primaries, gamma = SPACES[space]
    data = encoded(image, kind, icc_profile=rgb_profile(primaries, gamma), **LOSSLESS.get(kind, {}))
    found = _pixels(to_png(data, Reading(is_managed=not is_raw)))
    if is_raw:
        assert np.array_equal(found, np.asarray(image))
    else:
        expected = as_srgb(np.asarray(image), primaries, gamma)
        # At the edge of sRGB and in the dark, 8 bits of LittleCMS are coarser.
        inside = ((expected > 20) & (expected < 253)).all(axis=2)
        assert np.abs(found - expected)[inside].max(initial=0) <= 2.5


@given(draw=st.data(), size=SIZES, seed=st.integers(0, 99))
def values_of_more_bits_are_those_that_were_written(draw: st.DataObject, size: tuple[int, int], seed: int) -> None:
    """Compare with the numbers before they were written: exactly, and to half a level in 8 bits."""
    kind = draw.draw(st.sampled_from(sorted(DEEP)))
    white = draw.draw(st.sampled_from(DEEP[kind]))
    channels = draw.draw(st.sampled_from((1, 2, 3, 4))) if kind == "u2" else 1
    rng = np.random.default_rng(seed)
    values = (rng.random((size[1], size[0], channels)) * white).astype(kind)
    order = draw.draw(st.sampled_from("<>"))
    if channels == 2 or (kind == "u2" and draw.draw(st.booleans())):
        data = png_16(values.squeeze(2) if channels == 1 else values)
    else:
        shape = values.squeeze(2) if channels == 1 else values
        data = tiff(shape, order=order, photometric=2 if channels > 2 else 1)
    found = wide_values(data)
    assert found is not None
    assert np.array_equal(found.array, values)
    if channels in (1, 3):
        eight = _pixels(to_png(data, Reading(value_range=(0, white))))
        assert np.abs(eight - values.astype(float) * 255 / white).max() <= 0.51


@given(
    picture=pictures(), seed=st.integers(0, 999), name=st.sampled_from([b"tEXt", b"zTXt", b"iTXt", b"prVt", b"tIME"])
)
def extras_of_a_png_change_no_picture(picture: tuple[str, Image.Image], seed: int, name: bytes) -> None:
    """Compare with the same PNG without the damaged chunk."""
    image = picture[1] if picture[1].mode in MODES["PNG"] else picture[1].convert("RGB")
    data = encoded(image, "PNG")
    extra = bytearray(chunk(name, np.random.default_rng(seed).bytes(seed % 50)))
    extra[-1 - seed % 4] ^= 1 + seed % 255
    for place in (33, len(data) - 12):
        assert to_png(data[:place] + bytes(extra) + data[place:]) == to_png(data)


@given(
    picture=pictures(), places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1)
)
def a_changed_png_is_refused_or_the_same(picture: tuple[str, Image.Image], places: list[tuple[float, int]]) -> None:
    """Every chunk has a checksum: no change may give other pixels."""
    image = picture[1] if picture[1].mode in MODES["PNG"] else picture[1].convert("RGB")
    data = bytearray(encoded(image, "PNG"))
    for place, change in places:
        data[int(place * len(data))] ^= change
    if (found := _read(to_png, bytes(data))) is not None:
        assert found == to_png(encoded(image, "PNG"))


@given(draw=st.data(), size=SIZES, seed=st.integers(0, 99), progressive=st.booleans())
def damaged_jpegs_are_those_that_a_strict_decoder_refuses(
    draw: st.DataObject, size: tuple[int, int], seed: int, progressive: bool
) -> None:
    """Compare with simplejpeg's own verdict on the whole file and its whole size."""
    data = encoded(photo(*size, seed=seed), "JPEG", quality=90, progressive=progressive)
    start = draw.draw(st.integers(scan_start(data), len(data) - 2))
    end = draw.draw(st.integers(start, len(data) - 2))
    filler = draw.draw(st.sampled_from([b"", bytes(end - start), draw.draw(st.binary(max_size=200))]))
    broken = data[:start] + filler + data[end:]
    try:
        simplejpeg.decode_jpeg(broken)
        is_whole = True
    except ValueError as error:
        # Bytes that fill up before the end are no damage; other errors than of the data are for Pillow.
        assume("extraneous" not in str(error))
        is_whole = not str(error).startswith(("Corrupt JPEG data", "Premature end"))
    assert (jpeg_damage(broken) is None) is is_whole
    found = _read(to_jpeg, broken)
    assert found is None or is_whole


@given(picture=pictures(), draw=st.data())
def any_bytes_are_read_or_refused_in_words(picture: tuple[str, Image.Image], draw: st.DataObject) -> None:
    """No other exception, whatever the bytes are."""
    kind, image = picture
    data = bytearray(encoded(image, kind, **LOSSLESS.get(kind, {})))
    for _ in range(draw.draw(st.integers(1, 6))):
        place = draw.draw(st.integers(0, len(data)))
        size = draw.draw(st.integers(0, 40))
        data[place : place + size] = draw.draw(st.binary(max_size=40))
    broken = bytes(data)
    for read in (to_jpeg, to_png, wide_values, has_contrast, is_plain_jpeg, lambda data: grey_pixels(data, 16)):
        _read(read, broken)
    if (stored := _read(to_jpeg, broken)) is not None:
        assert is_plain_jpeg(stored)
        assert to_jpeg(stored) == stored


@given(profile=st.binary(min_size=1, max_size=600), seed=st.integers(0, 9))
def any_profile_is_used_or_ignored(profile: bytes, seed: int) -> None:
    """A profile of random bytes, or a changed one, leaves a picture of the same size."""
    whole = bytearray(rgb_profile(ADOBE_RGB, 2.2))
    for place, byte in enumerate(profile[:8]):
        whole[(byte * 131 + place * 977) % len(whole)] = byte
    for each in (profile, bytes(whole)):
        packed = chunk(b"iCCP", b"a\0\0" + zlib.compress(each))
        data = encoded(photo(20, 10, seed), "PNG")
        assert _pixels(to_png(data[:33] + packed + data[33:])).shape == (10, 20, 3)


TESTS: list[Callable[[], None]] = [
    whole_pictures_are_read_as_pillow_reads_them,
    colours_are_those_of_the_formulas,
    values_of_more_bits_are_those_that_were_written,
    extras_of_a_png_change_no_picture,
    a_changed_png_is_refused_or_the_same,
    damaged_jpegs_are_those_that_a_strict_decoder_refuses,
    any_bytes_are_read_or_refused_in_words,
    any_profile_is_used_or_ignored,
]


def _pixels(data: bytes) -> NDArray[np.float64]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image, float)


def _read(reader: Callable[[bytes], object], data: bytes) -> object:
    """Return what a reader gives, None where it refuses the picture."""
    try:
        return reader(data)
    except UnreadableItemError:
        return None
