"""Decode untrusted images, and convert them to JPEG or PNG of plain RGB."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from engine.sample import ImageBytes
from engine.sources.item import UnreadableItemError

# Image formats only: Pillow's others start programs (EPS) or parse documents (PDF, PSD, WMF).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA", "ICO")
MAX_PIXELS = 89_478_485  # Pillow's own limit: 256 MiB of RGB
MAX_EDGE = 65_500  # libjpeg's limit
JPEG_QUALITY = 95
EXIF_ORIENTATION = 0x0112

# A third of the time of Pillow's defaults at the same size: after PNG's filters photographs compress by runs alone.
PNG_SETTINGS = {"compress_level": 1, "compress_type": zlib.Z_RLE}
# What Pillow raises on damaged files (87,000 mutated files of 23 kinds, and its issue tracker), beside its own errors.
DAMAGE = (
    *(OSError, SyntaxError, ValueError, RuntimeError, EOFError, OverflowError),
    *(TypeError, KeyError, IndexError, struct.error, zlib.error),
)


def to_jpeg(data: ImageBytes) -> bytes:
    """Return a baseline RGB JPEG of the first frame, upright and without alpha (white behind it).

    Such a JPEG is returned unchanged. Raise UnreadableItemError for anything but a complete image of at most
    MAX_PIXELS pixels.
    """
    with _opened(data) as image:
        image.seek(0)
        image.load()
        return bytes(data) if _is_plain(image) else encode_jpeg(to_rgb(ImageOps.exif_transpose(image)))


def to_png(data: ImageBytes) -> bytes:
    """Return an image as PNG of RGB, upright and without alpha (white behind it); raise UnreadableItemError."""
    with _opened(data) as image:
        image.seek(0)
        return encode_png(to_rgb(ImageOps.exif_transpose(image)))


def is_plain_jpeg(data: ImageBytes) -> bool:
    """Return whether `to_jpeg` would return these bytes unchanged; raise UnreadableItemError for no image.

    Only the header is read.
    """
    with _opened(data) as image:
        return _is_plain(image)


def not_an_image(data: ImageBytes) -> str:
    """Return the message for bytes that are no image; Pillow's own contains a memory address."""
    return f"not an image: {len(data)} bytes, starting {bytes(data[:8])!r}"


def to_rgb(image: Image.Image) -> Image.Image:
    """Return 8-bit RGB: 16-bit and floating values scaled, alpha composited on white."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bit(image)
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers)
    return image.convert("RGB")


def grey_pixels(data: bytes, edge: int) -> NDArray[np.uint8]:
    """Return the brightness (edge, edge) of an encoded image, upright; raise UnreadableItemError for no image.

    A large JPEG is decoded at a reduced size.
    """
    with _opened(data) as image:
        image.draft("L", (2 * edge, 2 * edge))
        upright = ImageOps.exif_transpose(image)
        grey = upright if upright.mode == "L" else to_rgb(upright).convert("L")
        return np.asarray(grey.resize((edge, edge), Image.Resampling.BOX), np.uint8)


def encode_jpeg(image: Image.Image) -> bytes:
    """Return an RGB image as the JPEG that sources are stored as."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def encode_png(image: Image.Image) -> bytes:
    """Return an RGB image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **PNG_SETTINGS)
    return buffer.getvalue()


@contextmanager
def _opened(data: ImageBytes) -> Iterator[Image.Image]:
    """Open an image; errors of opening, and of decoding in the body, become UnreadableItemErrors."""
    what = "damaged"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on sizes and metadata: the limits are checked here
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            what = f"damaged {image.format}"
            width, height = image.size
            if width * height > MAX_PIXELS or max(width, height) > MAX_EDGE:
                limit = f"at most {MAX_PIXELS // 1_000_000} megapixels and {MAX_EDGE} a side"
                raise UnreadableItemError("too_large", f"{width} x {height} pixels, allowed are {limit}")
            if not width or not height:
                raise UnreadableItemError("unreadable_image", f"{width} x {height} pixels")
            yield image
        except UnidentifiedImageError as error:
            raise UnreadableItemError("unreadable_image", not_an_image(data)) from error
        except Image.DecompressionBombError as error:
            raise UnreadableItemError("too_large", str(error)) from error
        except DAMAGE as error:
            raise UnreadableItemError("unreadable_image", f"{what}: {error}") from error


def _is_plain(image: Image.Image) -> bool:
    progressive = bool(image.info.get("progressive") or image.info.get("progression"))
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    return image.format == "JPEG" and image.mode == "RGB" and not progressive and orientation == 1


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Return 8-bit grey: integers count as 16 bits, floating values as [0, 1], or [0, 255] where one is above 1."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    if image.mode != "F":
        values = values / 257
    elif values.max() <= 1:
        values = values * 255
    return Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8), mode="L")
