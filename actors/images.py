"""Encoded bytes to pixels and back."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

# Below this edge a colour edge is a large part of the picture, and half-resolution colour shows.
FULL_COLOUR_BELOW = 256


class UnreadableImageError(Exception):
    """Report bytes that are no image; about one sample, so a stage turns it into a Rejection."""


def decode_rgb(data: bytes) -> Image.Image:
    """Return the RGB image that the bytes encode; raises UnreadableImageError."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from error


def encode_jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """Return the JPEG of (height, width, 3) pixels; colour at full resolution (4:4:4) for small images."""
    buffer = io.BytesIO()
    subsampling = 0 if max(pixels.shape[:2]) < FULL_COLOUR_BELOW else 2
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return buffer.getvalue()
