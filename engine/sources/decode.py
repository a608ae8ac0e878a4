"""Decode untrusted images, and convert them to JPEG or PNG of plain RGB."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from engine.sample import ImageBytes
from engine.sources.formats.colour import is_srgb, to_srgb
from engine.sources.formats.depth import ValueRange, ValueRangeError, Values, is_wide, read_values, to_8_bits
from engine.sources.formats.jpeg import jpeg_damage, without_profile
from engine.sources.formats.png import without_damaged_extras
from engine.sources.formats.tiff import tiff_damage
from engine.sources.item import UnreadableItemError

# Image formats only: Pillow's others start programs (EPS) or parse documents (PDF, PSD, WMF).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA", "ICO")
MAX_PIXELS = 89_478_485  # Pillow's own limit: 256 MiB of RGB
MAX_EDGE = 65_500  # libjpeg's limit
JPEG_QUALITY = 95
EXIF_ORIENTATION = 0x0112
CONTRAST_EDGE = 64

# A third of the time of Pillow's defaults at the same size: after PNG's filters photographs compress by runs alone.
PNG_SETTINGS = {"compress_level": 1, "compress_type": zlib.Z_RLE}
# What Pillow raises on damaged files (87,000 mutated files of 23 kinds, and its issue tracker), beside its own errors.
DAMAGE = (
    *(OSError, SyntaxError, ValueError, RuntimeError, EOFError, OverflowError),
    *(TypeError, KeyError, IndexError, struct.error, zlib.error),
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Say how pixels become 8-bit RGB.

    `value_range` is black and white of images with more than 8 bits a channel; None: what each shows beyond doubt.
    `is_managed`: colours are converted to sRGB by the image's ICC profile, else its numbers are kept.
    """

    value_range: ValueRange | None = None
    is_managed: bool = True


PLAIN_READING = Reading()


def to_jpeg(data: ImageBytes, reading: Reading = PLAIN_READING) -> bytes:
    """Return a baseline RGB JPEG of the first frame in sRGB, upright, without alpha (white behind it) and profile.

    Such a JPEG is returned unchanged; from one whose profile changes nothing the profile alone is cut out. Raise
    UnreadableItemError for anything but a complete image of at most MAX_PIXELS pixels.
    """
    with _opened(data) as (image, data):
        if _is_plain(image) and (is_srgb(image) or not reading.is_managed):
            image.load()
            _refuse_damage(image, data)
            return without_profile(data)
        return encode_jpeg(_read(image, data, reading))


def to_png(data: ImageBytes, reading: Reading = PLAIN_READING) -> bytes:
    """Return an image as PNG of RGB, read as `to_jpeg` reads it; raise UnreadableItemError."""
    with _opened(data) as (image, data):
        return encode_png(_read(image, data, reading))


def is_plain_jpeg(data: ImageBytes) -> bool:
    """Return whether `to_jpeg` would return these bytes unchanged, if they are whole; raise UnreadableItemError.

    Only the header is read.
    """
    with _opened(data) as (image, data):
        return _is_plain(image) and without_profile(data) == data


def image_size(data: ImageBytes) -> tuple[int, int]:
    """Return width and height as stored, from the header alone; raise UnreadableItemError."""
    with _opened(data) as (image, _):
        return image.size


def wide_values(data: ImageBytes) -> Values | None:
    """Return the values of an image with more than 8 bits a channel, None for others; raise UnreadableItemError."""
    with _opened(data) as (image, data):
        return read_values(data, FORMATS) if is_wide(image) else None


def has_contrast(data: ImageBytes) -> bool:
    """Return whether an image has more than one colour; raise UnreadableItemError."""
    if np.ptp(grey_pixels(data, CONTRAST_EDGE)):
        return True
    with _opened(data) as (image, _):
        return _to_rgb(image).getcolors(1) is None


def not_an_image(data: ImageBytes) -> str:
    """Return the message for bytes that are no image; Pillow's own contains a memory address."""
    return f"not an image: {len(data)} bytes, starting {bytes(data[:8])!r}"


def grey_pixels(data: ImageBytes, edge: int) -> NDArray[np.uint8]:
    """Return the brightness (edge, edge) of an encoded image, upright; raise UnreadableItemError for no image.

    A large JPEG is decoded at a reduced size. Of more than 8 bits a channel the least is black and the largest white.
    """
    with _opened(data) as (image, data):
        if is_wide(image):
            colours = read_values(data, FORMATS).colours
            whole = (float(colours.min()), float(np.nextafter(colours.max(), np.inf, dtype=np.float64)))
            upright = _read(image, data, Reading(value_range=whole))
        else:
            image.draft("L", (2 * edge, 2 * edge))
            upright = ImageOps.exif_transpose(image)
        grey = upright if upright.mode == "L" else _to_rgb(upright).convert("L")
        return np.asarray(grey.resize((edge, edge), Image.Resampling.BOX), np.uint8)


def encode_jpeg(image: Image.Image) -> bytes:
    """Return an RGB image as the JPEG that sources are stored as."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def encode_png(image: Image.Image) -> bytes:
    """Return an RGB image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", icc_profile=None, **PNG_SETTINGS)
    return buffer.getvalue()


@contextmanager
def _opened(data: ImageBytes) -> Iterator[tuple[Image.Image, ImageBytes]]:
    """Open an image, and give the bytes that are read; errors, also in the body, become UnreadableItemErrors."""
    what = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on sizes and metadata: the limits are checked here
        try:
            what = "damaged PNG"
            data = without_damaged_extras(data)
            what = "damaged"
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            what = f"damaged {image.format}"
            width, height = image.size
            if width * height > MAX_PIXELS or max(width, height) > MAX_EDGE:
                limit = f"at most {MAX_PIXELS // 1_000_000} megapixels and {MAX_EDGE} a side"
                raise UnreadableItemError("too_large", f"{width} x {height} pixels, allowed are {limit}")
            if not width or not height:
                raise UnreadableItemError("unreadable_image", f"{width} x {height} pixels")
            yield image, data
        except UnidentifiedImageError as error:
            raise UnreadableItemError("unreadable_image", not_an_image(data)) from error
        except Image.DecompressionBombError as error:
            raise UnreadableItemError("too_large", str(error)) from error
        except ValueRangeError as error:
            raise UnreadableItemError("value_range", str(error)) from error
        except DAMAGE as error:
            raise UnreadableItemError("unreadable_image", f"{what}: {error}") from error


def _is_plain(image: Image.Image) -> bool:
    if image.format != "JPEG" or image.mode != "RGB":  # a PNG is decoded where it is asked for its EXIF
        return False
    progressive = bool(image.info.get("progressive") or image.info.get("progression"))
    return not progressive and image.getexif().get(EXIF_ORIENTATION, 1) == 1


def _read(image: Image.Image, data: ImageBytes, reading: Reading) -> Image.Image:
    """Return the first frame as RGB, upright and without alpha."""
    image.seek(0)
    _refuse_damage(image, data)
    if is_wide(image):
        upright = to_8_bits(read_values(data, FORMATS), reading.value_range)
        upright.info = {"icc_profile": image.info.get("icc_profile")}
    else:
        image.load()
        upright = ImageOps.exif_transpose(image)
    return _to_rgb(to_srgb(upright) if reading.is_managed else upright)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return RGB; alpha is composited on white."""
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers)
    return image.convert("RGB")


def _refuse_damage(image: Image.Image, data: ImageBytes) -> None:
    """Raise ValueError for pixels that are damaged where Pillow would go on."""
    if damage := jpeg_damage(data) or tiff_damage(image, data):
        raise ValueError(damage)
