"""Damaged JPEG data is found, and no whole file is called damaged."""

import io
import re

import numpy as np
import pytest
from odd_pictures import DAMAGES, damaged, encoded, photo, scan_start
from PIL import Image

from engine.sources.formats.jpeg import jpeg_damage, without_profile

KINDS = {
    "4:2:0": ("RGB", {"quality": 75, "subsampling": 2}),
    "4:4:4": ("RGB", {"quality": 95, "subsampling": 0}),
    "restarts": ("RGB", {"quality": 85, "restart_marker_rows": 1}),
    "progressive": ("RGB", {"quality": 85, "progressive": True}),
    "optimized": ("RGB", {"quality": 85, "optimize": True}),
    "grey": ("L", {"quality": 85}),
    "cmyk": ("CMYK", {"quality": 85}),
}
WHOLE = encoded(photo(), "JPEG", quality=85)


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def jpeg(kind: str, seed: int) -> bytes:
    mode, settings = KINDS[kind]
    return encoded(photo(320, 240, seed).convert(mode), "JPEG", **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hole_in_the_data_with_an_intact_end_is_found(kind: str) -> None:
    found, silent = 0, 0
    for seed in range(8):
        whole = jpeg(kind, seed)
        begin = scan_start(whole)
        for how in DAMAGES:
            broken = damaged(whole, how, seed, begin=begin, size=min(1000, (len(whole) - begin) // 3))
            found += jpeg_damage(broken) is not None
            try:
                pixels(broken)
                silent += 1
            except OSError:
                found += jpeg_damage(broken) is None  # Pillow sees it
    # Pillow takes most of them without a word. What comes out even by chance is not found.
    assert silent >= 24
    assert found >= 36


def test_of_200_damaged_files_198_are_found_and_none_of_200_whole_ones_is() -> None:
    whole = [encoded(photo(seed=seed), "JPEG", quality=60 + seed % 38, subsampling=seed % 3) for seed in range(200)]
    assert [jpeg_damage(data) for data in whole] == [None] * 200
    half = [damaged(data, "deleted", seed, begin=scan_start(data), size=1000) for seed, data in enumerate(whole)]
    assert sum(jpeg_damage(data) is not None for data in half) >= 198


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (64, 64), (17, 300)])
def test_no_whole_file_is_called_damaged(mode: str, size: tuple[int, int]) -> None:
    image = photo().convert(mode).resize(size)
    for quality in (5, 50, 95, 100):
        for settings in ({}, {"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 2}):
            for subsampling in (0, 1, 2):
                data = encoded(image, "JPEG", quality=quality, subsampling=subsampling, **settings)
                assert jpeg_damage(data) is None


def segment(marker: int, data: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + (len(data) + 2).to_bytes(2, "big") + data


SCAN = scan_start(WHOLE)
REVISION = WHOLE.index(b"JFIF\0") + 5
ODD = {
    "bytes after the end": WHOLE + b"thumbnail" * 100,
    "zeros after the end": WHOLE + bytes(2000),
    "another picture after the end": WHOLE + jpeg("progressive", 1),
    "no end": WHOLE[:-2],
    "half an end": WHOLE[:-1],
    "zeros before the end": WHOLE[:-2] + bytes(7) + WHOLE[-2:],
    "filled up before the end": WHOLE[:-2] + b"\xff" * 9 + WHOLE[-2:],
    "filled up in the header": WHOLE[:2] + b"\xff\xff" + WHOLE[2:],
    "JFIF 2": WHOLE[:REVISION] + b"\2" + WHOLE[REVISION + 1 :],
    "JFIF 0": WHOLE[:REVISION] + b"\0\0" + WHOLE[REVISION + 2 :],
    "Adobe's transform 7": WHOLE[:2] + segment(0xEE, b"Adobe\0d\0\0\0\0\7") + WHOLE[2:],
    "a broken profile": WHOLE[:2] + segment(0xE2, b"ICC_PROFILE\0\3\2abc") + WHOLE[2:],
    "a broken EXIF": WHOLE[:2] + segment(0xE1, b"Exif\0\0MM\0") + WHOLE[2:],
    "a comment": WHOLE[:2] + segment(0xFE, b"\xff\xd9" * 9) + WHOLE[2:],
    "other parameters of the scan": WHOLE[: SCAN - 3] + b"\0\0\0" + WHOLE[SCAN:],
}


NO_END = ("no end", "half an end")  # Pillow reads such a file where it is large enough


@pytest.mark.parametrize("name", ODD)
def test_what_encoders_write_beside_the_pixels_is_no_damage(name: str) -> None:
    assert name in NO_END or np.array_equal(pixels(ODD[name]), pixels(WHOLE))
    assert jpeg_damage(ODD[name]) is None


@pytest.mark.parametrize("name", [name for name in ODD if name not in NO_END])
def test_damage_is_found_in_them_too(name: str) -> None:
    start = ODD[name].index(WHOLE[SCAN:-20])
    broken = ODD[name][: start + 300] + ODD[name][start + 1500 :]
    assert re.match("Corrupt JPEG data: ", jpeg_damage(broken) or "")


def test_a_tail_of_zeros_as_of_a_broken_download_is_damage() -> None:
    half = len(WHOLE) // 2
    for broken in (WHOLE[:half] + bytes(half), WHOLE[:half] + bytes(half) + WHOLE[-2:], WHOLE[:half]):
        assert jpeg_damage(broken) is not None


def test_other_formats_are_left_to_their_decoders() -> None:
    assert jpeg_damage(encoded(photo(), "PNG")) is None
    assert jpeg_damage(b"") is None
    assert jpeg_damage(memoryview(WHOLE)) is None


def test_a_profile_is_cut_out_and_nothing_else() -> None:
    for size in (100, 200_000):
        with_profile = encoded(photo(), "JPEG", quality=85, icc_profile=bytes(size))
        assert b"ICC_PROFILE" in with_profile
        assert without_profile(with_profile) == WHOLE
    assert without_profile(WHOLE) == WHOLE
    twice = WHOLE[:2] + segment(0xE2, b"MPF\0" + bytes(9)) + WHOLE[2:]
    assert without_profile(twice) == twice
