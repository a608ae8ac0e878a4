"""The square that an editor works on: a picture fitted into it by reflection, and cut out of the result again."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from actors.models.device import upload

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A square of pixels, (size, size, 3), and the place of the picture in it."""

    pixels: NDArray[np.uint8]
    top: int
    left: int
    height: int
    width: int


def fit(image: Image.Image, size: int) -> Frame:
    """Return the picture scaled so that its longer edge is `size`, the rest of the square filled by reflection.

    Reflection keeps shapes as they are, where stretching would not, and gives the editor no hard edge to continue.
    """
    scale = size / max(image.size)
    width, height = (max(1, min(size, round(edge * scale))) for edge in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    top, left = (size - height) // 2, (size - width) // 2
    padding = ((top, size - height - top), (left, size - width - left), (0, 0))
    pixels = np.pad(np.asarray(image), padding, mode="symmetric")
    return Frame(pixels=pixels, top=top, left=left, height=height, width=width)


def to_tensor(frames: list[Frame], device: torch.device = CPU) -> torch.Tensor:
    """Return the squares as (num_frames, 3, size, size), float32 in [0, 1]."""
    pixels = torch.from_numpy(np.stack([frame.pixels for frame in frames]))
    return upload(pixels, device).permute(0, 3, 1, 2).float() / 255
