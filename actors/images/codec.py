"""Encoded bytes to pixels and back."""

import io
import os
import tempfile
from io import FileIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from engine.sample import ImageBytes
from engine.sources.decode import PNG_SETTINGS, not_an_image
from engine.sources.formats.jpeg import jpeg_damage

# Pictures with a shorter edge keep full colour resolution: halved, it is visible in them.
FULL_COLOUR_BELOW = 256
HAS_MEMORY_FILES = hasattr(os, "memfd_create")


class UnreadableImageError(Exception):
    """Report bytes that are no image; about one sample, so a stage turns it into a Rejection."""


def decode_rgb(data: ImageBytes) -> Image.Image:
    """Return the RGB image that the bytes encode; raises UnreadableImageError."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except UnidentifiedImageError as error:
        # Quarantined samples are the same bytes on every machine.
        raise UnreadableImageError(not_an_image(data)) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from error


def decode_whole(data: ImageBytes) -> Image.Image:
    """Return the same of an image that nobody has checked: a JPEG with damaged pixels raises UnreadableImageError."""
    if damage := jpeg_damage(data):
        raise UnreadableImageError(damage)
    return decode_rgb(data)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return the PNG of pixels (height, width, 3), or 4 channels of which the last is unused."""
    height, width, channels = pixels.shape
    image = Image.frombytes("RGB", (width, height), np.ascontiguousarray(pixels), "raw", "RGBX"[:channels])
    return _saved(image, "PNG", **PNG_SETTINGS)


def encode_jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """Return the JPEG of pixels (height, width, 3), or 4 channels with the last unused.

    Small images keep full colour (4:4:4). Pillow holds a pixel in four bytes, and encodes such pixels where they are.
    """
    height, width, channels = pixels.shape
    mode = "RGB" if channels == 3 else "RGBX"
    image = Image.frombuffer(mode, (width, height), np.ascontiguousarray(pixels), "raw", mode, 0, 1)
    return _saved(image, "JPEG", quality=quality, subsampling=0 if max(height, width) < FULL_COLOUR_BELOW else 2)


def _saved(image: Image.Image, kind: str, **settings: int) -> bytes:
    """Return an encoded image: from a file, because only while it encodes into one Pillow lets other threads go on."""
    # Linux alone has files in memory.
    with FileIO(os.memfd_create("image"), "r+b") if HAS_MEMORY_FILES else tempfile.TemporaryFile(buffering=0) as file:
        image.save(file, kind, **settings)
        return os.pread(file.fileno(), file.tell(), 0)
