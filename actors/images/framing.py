"""Resizing and cropping as an image processor does them, without it and from the encoded bytes.

A JPEG of twice the needed size or more is decoded at a fraction of its size, as the format allows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from actors.images.codec import decode_whole
from actors.models.untyped import Processor
from engine.sample import ImageBytes
from engine.sources.decode import MAX_PIXELS

Rgb = NDArray[np.uint8]  # (height, width, 3)

# Half the size or less: fractions between that and the whole take longer than the whole.
MIN_REDUCTION = 2
# No edge is made shorter by it: a small picture shows more of the difference, and is decoded fast anyway.
MIN_EDGE = 200
# How many times the size that is needed must be left. Decoding to just that size blurs less than bilinear does.
LEFT = {Image.Resampling.BILINEAR: 1.03, Image.Resampling.BICUBIC: 1.0, Image.Resampling.LANCZOS: 1.0}
# Others, such as CMYK, are Pillow's.
COLOURS = ("YCbCr", "RGB", "Gray")
# Torch resizes bytes four times as fast as Pillow, to the same value or the one beside it.
TORCH_MODES = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}


@dataclass(frozen=True, kw_only=True)
class Framing:
    """Resize to `size`, the shorter edge or (height, width), and cut the middle of `crop` (height, width) out."""

    size: int | tuple[int, int]
    crop: tuple[int, int] | None
    resample: Image.Resampling

    def of_pixels(self, rgb: Rgb) -> Rgb:
        """Return an image as the image processor resizes and crops it, to the bit; perhaps a view of a larger array."""
        return self._cropped(_resized(rgb, self._target(*rgb.shape[:2]), self.resample))

    def of_encoded(self, image: ImageBytes) -> Rgb:
        """Return the same of an encoded image; raises UnreadableImageError.

        A JPEG of twice the size or more is decoded at a fraction of it, and the result is close: photographs differ by
        2.5 levels of 255 on average at most, PSNR 36 dB or more, most of them by half of that.
        """
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(image)
            if colours not in COLOURS or height * width > MAX_PIXELS:
                return self.of_pixels(np.asarray(decode_whole(image)))
            target = self._target(height, width)
            # 0 asks for the whole size.
            left = LEFT.get(self.resample, 0.0)
            least = [left and max(MIN_EDGE, ceil(left * edge)) for edge in target]
            rgb = simplejpeg.decode_jpeg(image, min_height=least[0], min_width=least[1], min_factor=MIN_REDUCTION)
        except ValueError:
            # No JPEG, a damaged one, or one that Pillow alone reads.
            return self.of_pixels(np.asarray(decode_whole(image)))
        if rgb.shape[:2] == (height, width):
            return self.of_pixels(rgb)
        return self._cropped(_resized_fast(rgb, target, self.resample))

    def _target(self, height: int, width: int) -> tuple[int, int]:
        """Return the size (height, width) that an image of another is resized to."""
        if isinstance(self.size, tuple):
            return self.size
        longer = int(self.size * max(height, width) / min(height, width))
        return (longer, self.size) if width <= height else (self.size, longer)

    def _cropped(self, rgb: Rgb) -> Rgb:
        if self.crop is None:
            return rgb
        height, width = self.crop
        top, left = (rgb.shape[0] - height) // 2, (rgb.shape[1] - width) // 2
        return rgb[top : top + height, left : left + width]


def framings(processor: Processor) -> Iterator[Framing]:
    """Yield the framings that the fields of an image processor allow; only a trial tells which is right."""
    if not getattr(processor, "do_resize", False) or getattr(processor, "resample", None) is None:
        return
    resample = Image.Resampling(int(processor.resample))
    crop = None
    if getattr(processor, "do_center_crop", False):
        match dict(processor.crop_size):
            case {"height": int(height), "width": int(width), **rest} if not rest:
                crop = (height, width)
            case _:
                return
    match dict(processor.size):
        case {"height": int(height), "width": int(width), **rest} if not rest:
            yield Framing(size=(height, width), crop=crop, resample=resample)
        case {"shortest_edge": int(edge), **rest} if not rest:
            yield Framing(size=edge, crop=crop, resample=resample)
            # ConvNeXt's: it resizes to more than it keeps, and from 384 on to a square.
            share = getattr(processor, "crop_pct", None) or 1.0
            yield Framing(size=int(edge / share), crop=(edge, edge), resample=resample)
            yield Framing(size=(edge, edge), crop=None, resample=resample)
        case _:
            pass


def _resized(rgb: Rgb, size: tuple[int, int], resample: Image.Resampling) -> Rgb:
    if rgb.shape[:2] == size:
        return rgb
    return np.asarray(Image.fromarray(rgb).resize(size[::-1], resample))


def _resized_fast(rgb: Rgb, size: tuple[int, int], resample: Image.Resampling) -> Rgb:
    if rgb.shape[:2] == size or resample not in TORCH_MODES:
        return _resized(rgb, size, resample)
    # In this order: by the stride of the first axis torch tells that channels are last, and takes half the time.
    images = torch.from_numpy(rgb)[None].permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(images, size, mode=TORCH_MODES[resample], antialias=True)
    return resized[0].permute(1, 2, 0).numpy()
