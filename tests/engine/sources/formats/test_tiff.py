"""Damage in compressed TIFF files is found where the compression shows it."""

import io

import numpy as np
import pytest
from odd_pictures import damaged, encoded, photo
from PIL import Image

from engine.sources import UnreadableItemError
from engine.sources.decode import to_png
from engine.sources.formats.tiff import tiff_damage

KINDS = ["tiff_adobe_deflate", "tiff_deflate", "jpeg"]


def damage_of(data: bytes) -> str | None:
    with Image.open(io.BytesIO(data)) as image:
        return tiff_damage(image, data)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "packbits", *KINDS])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_no_whole_file_is_called_damaged(compression: str | None, mode: str) -> None:
    for size in ((1, 1), (160, 120), (90, 700)):
        assert damage_of(encoded(photo(*size).convert(mode), "TIFF", compression=compression)) is None


@pytest.mark.parametrize("compression", KINDS)
def test_a_hole_is_found_and_refused(compression: str) -> None:
    found = 0
    for seed in range(12):
        data = encoded(photo(seed=seed), "TIFF", compression=compression)
        broken = damaged(data, "zeroed", seed, begin=1000, size=900)
        found += damage_of(broken) is not None
        if damage_of(broken):
            with pytest.raises(UnreadableItemError, match="damaged TIFF: "):
                to_png(broken)
    assert found >= 11


def test_16_bits_are_checked_too() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (80, 90), np.uint16)
    data = encoded(Image.fromarray(values), "TIFF", compression="tiff_adobe_deflate")
    with pytest.raises(UnreadableItemError, match="incorrect data check"):
        to_png(data[:4000] + bytes([data[4000] ^ 1]) + data[4001:])
