"""Images with more than 8 bits a channel: their values as the file has them, and 8 bits of a known range.

Pillow keeps only the upper byte of 16-bit colour. Read in the other order of bytes it keeps the lower one.
"""

import io
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from engine.sample import ImageBytes

ValueRange = tuple[float, float]
# Pillow's names of the layouts in a file, each with that which gives the lower bytes.
NATIVE, SWAPPED = ("L", "B") if sys.byteorder == "little" else ("B", "L")
LOWER = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA")
    for order, other in (("B", "L"), ("L", "B"), ("N", SWAPPED))
} | {"LA;16B": "RGBA"}  # grey and alpha: all four bytes at once
# libtiff has put these in order already, and Pillow swaps them again.
ORDERED = {"I;16BS": "I;16S", "I;32BS": "I;32S", "F;32BF": "F;32F"} if sys.byteorder == "little" else {}
WHITE_IS_ZERO, BITS, PHOTOMETRIC, PLANES = 0, 258, 262, 284
MAX_16_BIT = 65535.0
BIT_STEPS = (255.0, 1023.0, 4095.0, 16383.0, MAX_16_BIT)
# A largest value below this share of a step says nothing: it may be a dark image of more bits, or one of few levels.
MIN_SHARE = 1 / 8
# The steps that one image can show alone, and the least share of them.
OWN_STEPS = {True: {1.0: MIN_SHARE, 255.0: 1 / 4}, False: {MAX_16_BIT: 1 / 4}}

RANGE_REMEDY = "set value_range of the source in the run file, such as [0, 4095] for 12 bits, or save 8 bits"


class ValueRangeError(Exception):
    """Report values that cannot be shown as from black to white, and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Values:
    """The values of an image as in its file: (height, width, 1 to 4), the last of 2 and 4 channels is alpha.

    `declared` is the range that the file itself names, `transparent` the colour that is transparent.
    """

    array: NDArray[Any]
    declared: ValueRange | None
    transparent: tuple[int, ...] | None
    is_negative: bool

    @property
    def colours(self) -> NDArray[Any]:
        """Return the channels without alpha."""
        return self.array[..., : {2: 1, 4: 3}.get(self.array.shape[2])]

    @property
    def is_floating(self) -> bool:
        """Return whether the values are floating-point numbers."""
        return self.array.dtype.kind == "f"


def is_wide(image: Image.Image) -> bool:
    """Return whether an image that is opened, and not loaded yet, has more than 8 bits a channel."""
    return image.mode.startswith("I") or image.mode == "F" or _layout(image) in LOWER or _is_torn(image)


def read_values(data: ImageBytes, formats: tuple[str, ...]) -> Values:
    """Return the values of an encoded image for which `is_wide` is true.

    Raise ValueRangeError for values that are not finite, and what Pillow raises on damaged files.
    """
    with Image.open(io.BytesIO(data), formats=formats) as image:
        image.seek(0)
        layout, tags = _layout(image), getattr(image, "tag_v2", {})
        if image.format == "TIFF" and image.tile and image.tile[0].codec_name == "libtiff":
            _set_layouts(image, ORDERED)
        transparent = image.info.get("transparency")
        declared = None
        if image.format == "PPM" and image.mode == "I" and image.tile[0].codec_name == "ppm":
            declared = (0.0, MAX_16_BIT)  # Pillow scales to it, by the largest value that the file names
        elif (bits := max(tags.get(BITS, (16,)))) not in (16, 32):
            declared = (0.0, 2.0**bits - 1)
        is_torn, is_apart = _is_torn(image), tags.get(PLANES) == 2
        array = np.asarray(ImageOps.exif_transpose(image))
        is_negative = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    if is_torn or (is_apart and array.max() < 64):
        raise ValueRangeError("a TIFF of 16 bits with its channels apart: save it pixel by pixel")
    if layout in LOWER:
        array = array.astype(np.uint16) * 257 if is_apart else _with_lower_bytes(array, data, formats, layout)
    if not np.isfinite(array).all():
        raise ValueRangeError("it holds values that are not finite")
    array = array[..., None] if array.ndim == 2 else array
    colour = transparent if isinstance(transparent, tuple) else (transparent,)
    return Values(
        array=array,
        declared=declared,
        transparent=colour if isinstance(colour[0], int) else None,
        is_negative=is_negative,
    )


def to_8_bits(values: Values, value_range: ValueRange | None) -> Image.Image:
    """Return an image of 8 bits (L, LA, RGB or RGBA), in which `value_range` is black to white.

    A range that the file names comes first; without any it is the one that the values show beyond doubt. Raise
    ValueRangeError for values outside of it.
    """
    colours = values.colours
    found = (float(colours.min()), float(colours.max()))
    low, high = values.declared or value_range or own_range(values, found)
    if found[0] < low or found[1] > high:
        raise ValueRangeError(f"its values {_span(found)}, and value_range is [{low:g}, {high:g}]")
    shades = _scaled(colours, low, high)
    if values.is_negative:
        shades = 255 - shades
    alpha = None
    if values.array.shape[2] in (2, 4):
        alpha = values.array[..., -1:]
        # Some scale alpha as they do the colours, others keep 65535 for it.
        alpha = _scaled(alpha, 0.0, high if alpha.max() <= high else MAX_16_BIT)
    elif values.transparent:
        alpha = np.where((values.array == values.transparent).all(axis=2, keepdims=True), 0, 255).astype(np.uint8)
    channels = shades if alpha is None else np.concatenate((shades, alpha), axis=2)
    return Image.fromarray(channels.squeeze(2) if channels.shape[2] == 1 else channels)


def own_range(values: Values, found: ValueRange) -> ValueRange:
    """Return the range that the values `found` in one image show beyond doubt; raise ValueRangeError."""
    if found[0] >= 0:
        for step, share in OWN_STEPS[values.is_floating].items():
            if share * step <= found[1] <= step:
                return 0.0, step
    raise ValueRangeError(f"its values {_span(found)}, and nothing says which is white: {RANGE_REMEDY}")


def common_range(found: ValueRange, *, is_floating: bool) -> ValueRange | None:
    """Return the range of a whole data set by its least and largest value: 8, 10, 12, 14 or 16 bits, or [0, 1].

    None where that is no more than a guess.
    """
    steps = (1.0, *BIT_STEPS) if is_floating else BIT_STEPS
    step = next((step for step in steps if found[1] <= step), None)
    return (0.0, step) if step and found[0] >= 0 and found[1] >= MIN_SHARE * step else None


def _span(found: ValueRange) -> str:
    return f"go from {found[0]:g} to {found[1]:g}"


def _scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    return np.round((values.astype(np.float64) - low) * 255 / (high - low)).astype(np.uint8)


def _with_lower_bytes(
    upper: NDArray[np.uint8], data: ImageBytes, formats: tuple[str, ...], layout: str
) -> NDArray[np.uint16]:
    """Return 16-bit values, of which Pillow gave the upper bytes."""
    with Image.open(io.BytesIO(data), formats=formats) as image:
        image.seek(0)
        _set_layouts(image, LOWER)
        lower = np.asarray(ImageOps.exif_transpose(image))
    if layout == "LA;16B":
        upper, lower = lower[..., ::2], lower[..., 1::2]
    both: NDArray[np.uint16] = upper.astype(np.uint16) << 8 | lower
    return both


def _layout(image: Image.Image) -> str:
    """Return Pillow's name of how the pixels lie in the file, "" where it has none."""
    tiles = getattr(image, "tile", None)
    args = tiles[0].args if tiles else ""
    found = args[0] if isinstance(args, tuple) and args else args
    return found if isinstance(found, str) else ""


def _set_layouts(image: ImageFile.ImageFile, others: Mapping[str, str]) -> None:
    """Let Pillow read an opened image in other layouts."""
    other = others.get(_layout(image))
    if other is not None:
        image.tile = [
            tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)
            for tile in image.tile
        ]


def _is_torn(image: Image.Image) -> bool:
    """Return whether an image is a TIFF of 16 bits whose channels lie apart: Pillow reads them as bytes."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(PLANES) == 2 and max(tags.get(BITS, (8,))) > 8 and _layout(image) in ("R", "G", "B", "A")
