"""Things that lie beside a garment: drawn, each with a shape and a colour of its own."""

import hashlib
from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

EDGE = 18  # pixels of a thing's square
_ENLARGED = 8  # times the pixels while it is drawn, for smooth edges

Colour = tuple[int, int, int]
Points = tuple[tuple[float, float], ...]

# By name: shapes from back to front, each a colour and either an ellipse's box or a polygon, in shares of the square.
_SHAPES: Mapping[str, tuple[tuple[Colour, Points], ...]] = {
    "ball": (((225, 60, 60), ((0.05, 0.05), (0.95, 0.95))), ((250, 240, 235), ((0.24, 0.16), (0.5, 0.42)))),
    "book": (
        ((60, 60, 140), ((0.08, 0.2), (0.92, 0.08), (0.92, 0.84), (0.08, 0.94))),
        ((235, 230, 215), ((0.16, 0.28), (0.84, 0.18), (0.84, 0.36), (0.16, 0.46))),
    ),
    "bottle": (
        ((40, 120, 90), ((0.3, 0.4), (0.42, 0.28), (0.58, 0.28), (0.7, 0.4), (0.7, 0.97), (0.3, 0.97))),
        ((200, 190, 120), ((0.42, 0.03), (0.58, 0.03), (0.58, 0.3), (0.42, 0.3))),
    ),
    "lamp": (
        ((90, 90, 95), ((0.44, 0.4), (0.56, 0.4), (0.56, 0.86), (0.78, 0.97), (0.22, 0.97), (0.44, 0.86))),
        ((250, 215, 110), ((0.32, 0.05), (0.68, 0.05), (0.92, 0.5), (0.08, 0.5))),
    ),
    "stone": (((140, 140, 150), ((0.03, 0.3), (0.97, 0.85))), ((170, 170, 178), ((0.15, 0.36), (0.6, 0.62)))),
    "box": (
        ((190, 140, 80), ((0.08, 0.3), (0.92, 0.3), (0.92, 0.94), (0.08, 0.94))),
        ((220, 180, 120), ((0.08, 0.3), (0.24, 0.1), (1.0, 0.1), (0.92, 0.3))),
    ),
    "leaf": (
        ((110, 170, 50), ((0.05, 0.95), (0.12, 0.4), (0.45, 0.1), (0.95, 0.05), (0.88, 0.5), (0.55, 0.88))),
        ((70, 120, 40), ((0.05, 0.95), (0.85, 0.12), (0.89, 0.16), (0.09, 0.99))),
    ),
}
THINGS = tuple(_SHAPES)


@cache
def thing_image(name: str) -> NDArray[np.float32]:
    """Return a thing, (EDGE, EDGE, 4): red, green and blue in [0, 255], and how opaque it is, in [0, 1]."""
    size = EDGE * _ENLARGED
    image = Image.new("RGBA", (size, size))
    draw = ImageDraw.Draw(image)
    for colour, points in _SHAPES[name]:
        at = [(x * size, y * size) for x, y in points]
        if len(at) == 2:
            draw.ellipse(at, fill=colour)
        else:
            draw.polygon(at, fill=colour)
    # Pillow averages colours by how opaque they are.
    pixels = np.array(image.resize((EDGE, EDGE), Image.Resampling.BOX), np.float32)
    pixels[..., 3] /= 255
    return pixels


def thing_place(key: str, garment: tuple[float, float], edge: int) -> tuple[int, int]:
    """Return the left and top of a thing in a picture of `edge` pixels: the lower corner away from the garment.

    `garment` is the middle of the garment, (x, y) in pixels; the place moves by up to 3 pixels with the scene's key.
    """
    digest = hashlib.blake2b(f"thing/{key}".encode(), digest_size=2).digest()
    right, up = digest[0] % 4, digest[1] % 4
    left = right if garment[0] > edge / 2 else edge - EDGE - right
    return left, edge - EDGE - up
