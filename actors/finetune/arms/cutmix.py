"""CutMix (Yun et al. 2019): each image has a box of another one, and its label in the share of that box."""

import torch
import torch.nn.functional as F
from torch import Tensor

from actors.models.device import upload


def cutmixed(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Paste a box of another image of the batch into each image (n, channels, height, width).

    Returns the images, the row each box is from (n,), and the share of each image that is its own (n,): of the area
    that was really covered, as a box may reach over the edge. Lambda is uniform in [0, 1].
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


def mixed_cross_entropy(logits: Tensor, labels: Tensor, partners: Tensor, shares: Tensor) -> Tensor:
    """Return the mean cross-entropy of mixed images, equation 1.

    `shares` (n,) of an image's label are its own, the rest is the label of the image in row `partners` (n,).
    """
    own = F.cross_entropy(logits, labels, reduction="none")
    other = F.cross_entropy(logits, labels[partners], reduction="none")
    return (shares * own + (1 - shares) * other).mean()


def _sides(length: int, cut: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return first and last pixel of boxes with sides of `cut` times the length, centred anywhere."""
    centre = torch.randint(length, cut.shape, generator=generator)
    half = (length * cut / 2).round()
    return (centre - half).clamp(min=0), (centre + half).clamp(max=length)
