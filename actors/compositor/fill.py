"""Fill pixels from those around them."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

LEAST = 1e-6


def filled(picture: Tensor, known: Tensor) -> Tensor:
    """Return a picture (3, height, width) with the pixels that are not `known` filled from those that are.

    `known` (height, width) holds weights in [0, 1]; where it is 1 the picture stays as it is. Pull-push (Gortler et
    al. 1996, The Lumigraph, section 3.4): averages over ever larger squares, and back, each filling the holes of the
    finer one.
    """
    height, width = known.shape
    weight = known[None, None].float()
    colours = picture[None].float() * weight
    if min(height, width) == 1 or bool((weight > 0).all()):
        average = colours.sum((2, 3), keepdim=True) / weight.sum().clamp(min=LEAST)
        return torch.where(weight > 0, colours / weight.clamp(min=LEAST), average)[0]
    pulled = avg_pool2d(weight, 2, ceil_mode=True, count_include_pad=False)
    coarse = avg_pool2d(colours, 2, ceil_mode=True, count_include_pad=False) / pulled.clamp(min=LEAST)
    # Half a square with one known pixel is known: weights saturate, so that holes close from their edges.
    pushed = filled(coarse[0], (2 * pulled[0, 0]).clamp(max=1))
    behind = interpolate(pushed[None], size=(height, width), mode="bilinear", align_corners=False)
    return (colours + behind * (1 - weight))[0]
