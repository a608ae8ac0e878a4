"""Cut and paste: the object of one real image on the ground of another, with the object's label.

ForAug (Nauen et al. 2025, arXiv 2503.09399) with the masks that the data come with. Its grounds are filled by an
inpainting model (LaMa), here by push-pull; its share of whole images grows over training, here it stays the same.
"""

import random
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Of the images drawn; the others stay whole.
SHARE = 0.5
# The authors' settings: the object covers as much as the two images' objects do, give or take this share of it, and a
# ground of which its own object covers more is not used.
SIZE_JITTER, MOST_COVERED = 0.3, 0.8
# Less opacity, of 255, is none: at its border an object has its old ground's colour.
OPAQUE = 128

Bytes = NDArray[np.uint8]


def recombined(pixels: Bytes, mask: Bytes, ground: Bytes, hole: Bytes, rng: random.Random) -> Bytes:
    """Return the object of `pixels` (channels, height, width) at a random place on a ground without its own object.

    `mask` and `hole` (height, width) are the opacity of the two objects. The size is drawn as the authors draw it.
    """
    areas = sorted((mask.mean(), hole.mean()))
    target = rng.uniform((1 - SIZE_JITTER) * areas[0], (1 + SIZE_JITTER) * areas[1])
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    edges = mask[box].shape
    scale = min(sqrt(target / mask.mean()), *(whole / edge for whole, edge in zip(mask.shape, edges, strict=True)))
    size = [max(1, round(scale * edge)) for edge in edges]
    layers = np.dstack([*np.broadcast_to(pixels, (3, *mask.shape))[:, *box], mask[box]])
    cut = np.asarray(Image.fromarray(layers, "RGBA").resize((size[1], size[0]), Image.Resampling.BILINEAR))
    place = [rng.randint(0, whole - edge) for whole, edge in zip(mask.shape, size, strict=True)]
    return pasted(without_object(ground, hole), cut.transpose(2, 0, 1)[: len(ground)], cut[..., 3], *place)


def pasted(ground: Bytes, cut: Bytes, mask: Bytes, top: int, left: int) -> Bytes:
    """Return a ground (channels, height, width) with a smaller picture on it, in the opacity of its mask.

    From OPAQUE to 255 it grows from 0 to 1, as the authors have it.
    """
    opacity = np.maximum(2 * mask.astype(np.int32) - 255, 0)
    place = np.s_[:, top : top + mask.shape[0], left : left + mask.shape[1]]
    whole = ground.copy()
    whole[place] = (ground[place] * (255 - opacity) + cut * opacity + 127) // 255
    return whole


def without_object(pixels: Bytes, mask: Bytes) -> Bytes:
    """Return an image (channels, height, width) whose object is filled with the colours around it.

    Push-pull (Gortler et al. 1996, The Lumigraph, section 3.4): means of what is known at half the size, and so on,
    until nothing is unknown. Far from the border it is smooth.
    """
    unknown = np.pad(mask > 0, 1)
    height, width = mask.shape
    # The pixels around an object have its colours too, in a JPEG and after resizing.
    near = np.any([unknown[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)
    filled = _filled(pixels.astype(np.float32), (~near).astype(np.float32))
    return np.where(near, np.clip(filled.round(), 0, 255), pixels).astype(np.uint8)


def _filled(colours: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return colours (channels, height, width), those with weight `known` (height, width) of 0 from half the size."""
    if known.all() or known.size == 1:
        return colours
    height, width = known.shape
    padded = ((0, height % 2), (0, width % 2))
    weights = np.pad(known, padded)
    sums = np.pad(colours * known, ((0, 0), *padded))
    weight = weights[::2, ::2] + weights[1::2, ::2] + weights[::2, 1::2] + weights[1::2, 1::2]
    mean = (sums[:, ::2, ::2] + sums[:, 1::2, ::2] + sums[:, ::2, 1::2] + sums[:, 1::2, 1::2]) / np.maximum(weight, 1)
    coarse = _filled(mean, (weight > 0).astype(np.float32))
    # Bilinear: each pixel lies in a quarter of a coarse one, and has the next ones' colours by 3 to 1.
    for axis in (1, 2):
        before, after = (np.take(coarse, _moved(coarse.shape[axis], by), axis) for by in (-1, 1))
        pair = np.stack([0.75 * coarse + 0.25 * before, 0.75 * coarse + 0.25 * after], axis + 1)
        coarse = pair.reshape(*coarse.shape[:axis], -1, *coarse.shape[axis + 1 :])
    return np.where(known > 0, colours, coarse[:, :height, :width])


def _moved(length: int, by: int) -> NDArray[np.intp]:
    return np.clip(np.arange(length) + by, 0, length - 1)
