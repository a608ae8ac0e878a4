"""Put what is in a region on another ground, without its old one shining through."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from actors.compositor.fill import filled

# Of the highest probability: a pixel below it shows some of its old ground.
CERTAIN = 0.95
# The probabilities between which a pixel is partly the object: a network's are soft far beyond a real edge.
EDGE = (0.3, 0.7)


def alpha_of(probability: Tensor) -> Tensor:
    """Return how opaque each pixel of an object is, in [0, 1], from the probability that it belongs to it."""
    low, high = EDGE
    share = ((probability - low) / (high - low)).clamp(0, 1)
    return share * share * (3 - 2 * share)


def on_ground(picture: Tensor, probability: Tensor, ground: Tensor) -> Tensor:
    """Return what a picture (3, height, width) shows where the probability (height, width) is high, on another ground.

    The object's colours at its edge are those of its certain pixels nearby, since the picture's own are mixed with the
    old ground. `ground` (3, any height, any width) is cut to the picture's shape and scaled to cover it.
    """
    alpha = alpha_of(probability)
    colours = filled(picture, (probability >= CERTAIN * probability.max()).float())
    return colours * alpha + covering(ground, picture.shape[1:]) * (1 - alpha)


def covering(ground: Tensor, shape: torch.Size) -> Tensor:
    """Return the middle of a picture (3, height, width), scaled to cover a shape (height, width)."""
    height, width = shape
    scale = max(height / ground.shape[1], width / ground.shape[2])
    size = max(height, round(ground.shape[1] * scale)), max(width, round(ground.shape[2] * scale))
    scaled = ground
    if size != tuple(ground.shape[1:]):
        scaled = interpolate(ground[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return scaled[:, top : top + height, left : left + width]
