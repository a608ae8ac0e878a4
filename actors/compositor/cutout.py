"""Put what is in a region on another ground, without its old one shining through."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from actors.compositor.fill import filled

# Of the highest probability: a pixel below it shows some of its old ground.
CERTAIN = 0.95
# The probabilities between which a pixel is partly the object: a network's are soft far beyond a real edge.
EDGE = (0.3, 0.7)


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """An object: its colours, (3, height, width) in [0, 1], and how opaque each pixel is, (height, width) in [0, 1]."""

    colours: Tensor
    alpha: Tensor

    def on(self, ground: Tensor) -> Tensor:
        """Return the object on a ground (3, any height, any width), which is scaled and cut to cover its shape."""
        return self.colours * self.alpha + covering(ground, self.alpha.shape) * (1 - self.alpha)


def cut_out(picture: Tensor, probability: Tensor) -> Cutout:
    """Return what a picture (3, height, width) shows where the probability (height, width) is high.

    The colours at its edge are those of its certain pixels nearby, since the picture's own are mixed with the ground.
    """
    low, high = EDGE
    share = ((probability - low) / (high - low)).clamp(0, 1)
    is_certain = probability >= CERTAIN * probability.max()
    return Cutout(colours=filled(picture, is_certain.float()), alpha=share * share * (3 - 2 * share))


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
