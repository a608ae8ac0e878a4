"""Augmentation in fine-tuning: blur, for real and generated images alike, and RandAugment, for one arm's real images.

Images from a diffusion model are smoother than photographs. Without blur a classifier can learn to trust the object in
smooth images and the background in sharp ones, and is no better where it counts.
"""

import random
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor, nn

from actors.models.device import upload

MIN_SIGMA = 0.05  # pixels; less leaves an image as it is
NUM_OPERATIONS = 2
MAGNITUDE = 9 / 30  # of the largest; N = 2, M = 9 are the paper's for ImageNet
Operation = Callable[[Image.Image, float], Image.Image]
GREY = (128, 128, 128)


def blurred(images: Tensor, max_blur: float, generator: torch.Generator) -> Tensor:
    """Return images (n, channels, height, width), each under a Gaussian blur of its own.

    The deviation is uniform between none and `max_blur` times the longer edge.
    """
    if max_blur <= 0:
        return images
    count, _, height, width = images.shape
    largest = max_blur * max(height, width)
    radius = max(1, min(round(2 * largest), height - 1, width - 1))
    return gaussian_blurred(images, torch.rand(count, generator=generator) * largest, radius)


def gaussian_blurred(images: Tensor, sigmas: Tensor, radius: int) -> Tensor:
    """Return images (n, channels, height, width), each blurred by its own `sigmas` (n,) pixels, over 2 radius + 1."""
    count, channels, height, _ = images.shape
    sigmas = upload(sigmas.clamp(min=MIN_SIGMA), images.device)
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    kernels = torch.exp(-(offsets**2) / (2 * sigmas[:, None] ** 2))
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, 0).to(images.dtype)
    # One group for each channel of each image: every image has its own kernel.
    padded = nn.functional.pad(images, (radius,) * 4, mode="reflect")
    # Reshaped, not viewed: decoded pictures have their channels last in memory.
    flat = padded.reshape(1, count * channels, height + 2 * radius, -1)
    flat = nn.functional.conv2d(flat, kernels[:, None, :, None], groups=count * channels)
    flat = nn.functional.conv2d(flat, kernels[:, None, None, :], groups=count * channels)
    return flat.reshape(images.shape)


def randaugmented(pixels: NDArray[np.uint8], rng: random.Random) -> NDArray[np.uint8]:
    """Return an image (3 or 1 channels, height, width) uint8 after two of fourteen operations, all at one magnitude.

    RandAugment, Cubuk et al. 2020. What comes in from outside the image is grey.
    """
    colours = np.broadcast_to(pixels, (3, *pixels.shape[1:]))
    image = Image.fromarray(np.ascontiguousarray(colours.transpose(1, 2, 0)))
    for operation in rng.choices(OPERATIONS, k=NUM_OPERATIONS):
        sign = rng.choice((-1, 1))
        image = operation(image, sign * MAGNITUDE)
    return np.asarray(image).transpose(2, 0, 1)[: len(pixels)]


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR, fillcolor=GREY
    )


OPERATIONS: tuple[Operation, ...] = (
    lambda image, amount: image,
    lambda image, amount: ImageOps.autocontrast(image),
    lambda image, amount: ImageOps.equalize(image),
    lambda image, amount: image.rotate(30 * amount, resample=Image.Resampling.BILINEAR, fillcolor=GREY),
    lambda image, amount: ImageOps.solarize(image, round(256 * (1 - abs(amount)))),
    lambda image, amount: ImageOps.posterize(image, 8 - round(4 * abs(amount))),
    lambda image, amount: ImageEnhance.Color(image).enhance(1 + 0.9 * amount),
    lambda image, amount: ImageEnhance.Contrast(image).enhance(1 + 0.9 * amount),
    lambda image, amount: ImageEnhance.Brightness(image).enhance(1 + 0.9 * amount),
    lambda image, amount: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * amount),
    lambda image, amount: _affine(image, 1, 0.3 * amount, 0, 0, 1, 0),
    lambda image, amount: _affine(image, 1, 0, 0, 0.3 * amount, 1, 0),
    lambda image, amount: _affine(image, 1, 0, 0.45 * amount * image.width, 0, 1, 0),
    lambda image, amount: _affine(image, 1, 0, 0, 0, 1, 0.45 * amount * image.height),
)
