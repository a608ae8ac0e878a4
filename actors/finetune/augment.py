"""Augmentation of whole batches in fine-tuning: blur, the same for real and generated images.

Images from a diffusion model are smoother than photographs. Without blur a classifier can learn to trust the object in
smooth images and the background in sharp ones, and then nothing is cured where it counts.
"""

import torch
from torch import Tensor, nn

from actors.models.device import upload

MIN_SIGMA = 0.05  # pixels; less leaves an image as it is


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
