"""RandAugment (Cubuk et al. 2020): two of fourteen operations, drawn for each image, all at one magnitude."""

import random
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

NUM_OPERATIONS = 2
MAGNITUDE = 9 / 30  # of the largest; N = 2, M = 9 are the paper's for ImageNet
Operation = Callable[[Image.Image, float], Image.Image]


def randaugmented(pixels: NDArray[np.uint8], rng: random.Random) -> NDArray[np.uint8]:
    """Return an image (3, height, width) uint8 after two operations; what comes in from outside is grey."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    for operation in rng.choices(OPERATIONS, k=NUM_OPERATIONS):
        sign = rng.choice((-1, 1))
        image = operation(image, sign * MAGNITUDE)
    return np.asarray(image).transpose(2, 0, 1)


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    grey = (128, 128, 128)
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR, fillcolor=grey
    )


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, amount: kind(image).enhance(1 + 0.9 * amount)


OPERATIONS: tuple[Operation, ...] = (
    lambda image, amount: image,
    lambda image, amount: ImageOps.autocontrast(image),
    lambda image, amount: ImageOps.equalize(image),
    lambda image, amount: image.rotate(30 * amount, resample=Image.Resampling.BILINEAR, fillcolor=(128, 128, 128)),
    lambda image, amount: ImageOps.solarize(image, round(256 * (1 - abs(amount)))),
    lambda image, amount: ImageOps.posterize(image, 8 - round(4 * abs(amount))),
    _enhanced(ImageEnhance.Color),
    _enhanced(ImageEnhance.Contrast),
    _enhanced(ImageEnhance.Brightness),
    _enhanced(ImageEnhance.Sharpness),
    lambda image, amount: _affine(image, 1, 0.3 * amount, 0, 0, 1, 0),
    lambda image, amount: _affine(image, 1, 0, 0, 0.3 * amount, 1, 0),
    lambda image, amount: _affine(image, 1, 0, 0.45 * amount * image.width, 0, 1, 0),
    lambda image, amount: _affine(image, 1, 0, 0, 0, 1, 0.45 * amount * image.height),
)
