"""Augmentation of whole batches in fine-tuning: CutMix, and blur, the same for real and generated images.

Images from a diffusion model are smoother than photographs. Without blur a classifier can learn to trust the object in
smooth images and the background in sharp ones, and then nothing is cured where it counts.
"""

import torch
from torch import Tensor, nn

from actors.models.device import upload

MIN_SIGMA = 0.05  # pixels; less leaves an image as it is


def cutmixed(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Paste a box of another image of the batch into each image (n, channels, height, width).

    Returns the images, the row each box is from (n,), and the share of each image that is its own (n,): of the area
    that was really covered, as a box may reach over the edge. Yun et al. 2019, with lambda uniform in [0, 1].
    """
    count, _, height, width = images.shape
    partners = torch.randperm(count, generator=generator)
    cut = (1 - torch.rand(count, generator=generator)).sqrt()
    left, right = _sides(width, cut, generator)
    top, bottom = _sides(height, cut, generator)
    x, y = torch.arange(width), torch.arange(height)
    columns = (x >= left[:, None]) & (x < right[:, None])
    rows = (y >= top[:, None]) & (y < bottom[:, None])
    box = (rows[:, :, None] & columns[:, None, :])[:, None]
    shares = 1 - box.float().mean((1, 2, 3))
    device = images.device
    partners = upload(partners, device)
    return torch.where(upload(box, device), images[partners], images), partners, upload(shares, device)


def _sides(length: int, cut: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return first and last pixel of boxes with sides of `cut` times the length, centred anywhere."""
    centre = torch.randint(length, cut.shape, generator=generator)
    half = (length * cut / 2).round()
    return (centre - half).clamp(min=0), (centre + half).clamp(max=length)


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
