"""More than 8 bits a channel: the values are those of the file, and their range is known or refused."""

import io
import struct
import sys

import numpy as np
import pytest
from odd_pictures import chunk, encoded, png_16, tiff
from PIL import Image

from engine.sources import UnreadableItemError
from engine.sources.decode import FORMATS, wide_values
from engine.sources.formats.depth import ValueRangeError, Values, common_range, is_wide, read_values, to_8_bits

RANDOM = np.random.default_rng(3).integers(0, 4096, (9, 7, 4), np.uint16)
RAMP = np.linspace(0, 4095, 256, dtype=np.float64).round().reshape(16, 16)


def values_of(array: np.ndarray, **others: object) -> Values:
    fields = {"declared": None, "transparent": None, "is_negative": False} | others
    return Values(array=array if array.ndim == 3 else array[..., None], **fields)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_both_bytes_of_16_bit_colour_are_read_from_png(channels: int) -> None:
    values = RANDOM[..., :channels]
    assert np.array_equal(wide_values(png_16(values)).array, values)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [3, 4])
def test_both_bytes_of_16_bit_colour_are_read_from_tiff(order: str, channels: int) -> None:
    values = RANDOM[..., :channels]
    assert np.array_equal(wide_values(tiff(values, order=order, photometric=2)).array, values)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u2", "i2", "i4", "f4"])
def test_one_channel_is_read_in_either_order_of_bytes(order: str, kind: str) -> None:
    values = RANDOM[..., 0].astype(kind)
    assert np.array_equal(wide_values(tiff(values, order=order)).array[..., 0], values)


@pytest.mark.skipif(sys.byteorder == "big", reason="Pillow is wrong where the machine's order is another")
@pytest.mark.parametrize("kind", ["i2", "i4", "f4"])
def test_compressed_values_in_the_other_order_of_bytes_are_not_turned_round(kind: str) -> None:
    values = RANDOM[..., 0].astype(kind)
    plain = tiff(values, order=">")
    strips = plain[len(plain) - values.nbytes :]
    # PackBits: runs of at most 128 bytes as they are.
    packed = b"".join(
        bytes([len(part) - 1]) + part for part in (strips[at : at + 128] for at in range(0, len(strips), 128))
    )
    head = bytearray(plain[: len(plain) - values.nbytes])
    for tag, number in ((259, 32773), (279, len(packed))):
        place = head.index(struct.pack(">HH", tag, 3 if tag == 259 else 4))
        head[place + 8 : place + 12] = struct.pack(">HH", number, 0) if tag == 259 else struct.pack(">I", number)
    assert np.array_equal(wide_values(bytes(head) + packed).array[..., 0], values)


def test_channels_that_lie_apart_are_refused_in_words() -> None:
    data = tiff(RANDOM[..., :3], photometric=2, planar=2)
    assert is_wide(Image.open(io.BytesIO(data)))
    with pytest.raises(ValueRangeError, match="its channels apart: save it pixel by pixel"):
        read_values(data, FORMATS)


def test_8_bits_are_left_to_pillow() -> None:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        assert wide_values(encoded(Image.new(mode, (4, 4)), "PNG")) is None


@pytest.mark.parametrize(
    ("values", "value_range"),
    [
        (RAMP.astype(np.uint16), (0, 4095)),
        (RAMP.astype(np.int32), (0, 4095)),
        (RAMP.astype(np.float32), (0, 4095)),
        ((RAMP / 4095).astype(np.float32), (0, 1)),
        ((RAMP - 1024).astype(np.int32), (-1024, 3071)),
        ((RAMP * 65535 / 4095).astype(np.uint16), (0, 65535)),
        ((RAMP * 255 / 4095).round().astype(np.int32), (0, 255)),
    ],
)
def test_the_range_is_black_to_white(values: np.ndarray, value_range: tuple[float, float]) -> None:
    found = np.asarray(to_8_bits(values_of(values), value_range), float)
    assert np.abs(found - RAMP * 255 / 4095).max() <= 0.51


def test_a_range_that_a_file_names_comes_first() -> None:
    values = wide_values(b"P5 16 16 4095\n" + (RAMP / 4).astype(">u2").tobytes())
    found = np.asarray(to_8_bits(values, (0, 255)), float)
    assert np.abs(found - RAMP / 4 * 255 / 4095).max() <= 0.6
    # 65535 is what every file of two bytes may name.
    assert wide_values(b"P5 16 16 65535\n" + RAMP.astype(">u2").tobytes()).declared is None


def test_white_that_is_zero_is_white() -> None:
    values = wide_values(tiff(RAMP.astype(np.uint16), photometric=0))
    assert np.array_equal(
        255 - np.asarray(to_8_bits(values, (0, 4095))), np.asarray(to_8_bits(values_of(RAMP), (0, 4095)))
    )


def test_a_transparent_colour_and_alpha_of_16_bits_are_kept() -> None:
    grey = png_16(RAMP.astype(np.uint16), chunk(b"tRNS", struct.pack(">H", 4095)))
    found = np.asarray(to_8_bits(wide_values(grey), (0, 4095)))
    assert found[-1, -1].tolist() == [255, 0]
    assert (found[..., 1] == 0).sum() == 1
    colours = np.repeat(RAMP.astype(np.uint16)[..., None], 3, 2)
    found = np.asarray(to_8_bits(wide_values(png_16(colours, chunk(b"tRNS", bytes(6)))), (0, 4095)))
    assert found[0, 0].tolist() == [0, 0, 0, 0]
    layers = np.concatenate((colours, np.full((16, 16, 1), 65535, np.uint16)), axis=2)
    assert (np.asarray(to_8_bits(wide_values(png_16(layers)), (0, 4095)))[..., 3] == 255).all()


@pytest.mark.parametrize(
    ("values", "value_range", "said"),
    [
        (np.array([[0, 300]]), (0, 255), r"its values go from 0 to 300, and value_range is \[0, 255\]"),
        (np.array([[-5, 200]]), (0, 255), r"its values go from -5 to 200, and value_range is \[0, 255\]"),
        (np.array([[0, 900]]), None, "its values go from 0 to 900, and nothing says which is white: set value_range"),
        (np.array([[-1.0, 1.0]]), None, "from -1 to 1, and nothing says which is white"),
        (np.array([[0.0, 1.3]]), None, "from 0 to 1.3, and nothing says which is white"),
        (np.array([[0, 70000]]), None, "from 0 to 70000, and nothing says which is white"),
    ],
)
def test_what_cannot_be_scaled_is_refused_in_words(
    values: np.ndarray, value_range: tuple[float, float] | None, said: str
) -> None:
    with pytest.raises(ValueRangeError, match=said):
        to_8_bits(values_of(values), value_range)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(UnreadableItemError, match="value_range: it holds values that are not finite"):
        wide_values(tiff(np.array([[0.5, value]], np.float32)))


def test_one_image_alone_shows_16_bits_0_to_1_and_floating_bytes() -> None:
    for values, white in (
        (np.array([[0, 16384]]), 65535),
        (np.array([[0.0, 0.5]]), 1),
        (np.array([[0.0, 200.0]]), 255),
    ):
        assert np.array_equal(
            np.asarray(to_8_bits(values_of(values), None)), np.asarray(to_8_bits(values_of(values), (0, white)))
        )


@pytest.mark.parametrize(
    ("largest", "is_floating", "white"),
    [
        *((255, False, 255), (256, False, 1023), (4095, False, 4095), (4096, False, 16383), (65535, False, 65535)),
        *((32, False, 255), (31, False, None), (65536, False, None), (0, False, None)),
        *((1.0, True, 1), (0.3, True, 1), (0.1, True, None), (1.2, True, None), (254.0, True, 255), (4e5, True, None)),
    ],
)
def test_the_range_of_a_data_set_is_a_number_of_bits(largest: float, is_floating: bool, white: float | None) -> None:
    assert common_range((0, largest), is_floating=is_floating) == (None if white is None else (0, white))
    assert common_range((-1, largest), is_floating=is_floating) is None
