"""Colours that an ICC profile describes, converted to sRGB."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

# Of 255. Profiles of sRGB itself, of which there are dozens, differ by one level from each other.
SAME_COLOUR = 2
# Of grey, LittleCMS's faster way is wrong by up to 10 levels in dark parts, and hardly faster.
FLAGS = {"RGB": ImageCms.Flags.NONE, "CMYK": ImageCms.Flags.NONE, "L": ImageCms.Flags.NOOPTIMIZE}
GRID = np.linspace(0, 255, 9).astype(np.uint8)


def to_srgb(image: Image.Image) -> Image.Image:
    """Return an image of 8 bits in sRGB where its profile describes other colours, the image itself where not.

    A profile that is damaged, or made for another kind of image, is ignored, as browsers do. Transparency is kept.
    """
    profile = image.info.get("icc_profile")
    mode = _mode_of(image)
    transform = _transform(profile, mode) if profile else None
    if transform is None:
        return image
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    colours = image.convert("RGBA") if image.mode == "RGBa" else image
    found: Image.Image = transform.apply(colours.convert(mode))
    if alpha is not None:
        found.putalpha(alpha)
    return found


def is_srgb(image: Image.Image) -> bool:
    """Return whether `to_srgb` leaves an image as it is."""
    profile = image.info.get("icc_profile")
    return not profile or _transform(profile, _mode_of(image)) is None


def _mode_of(image: Image.Image) -> str:
    """Return the mode of the colours that a profile is for: palettes are of RGB."""
    if image.mode in ("CMYK", "LAB"):
        return image.mode
    return "L" if image.mode in ("1", "L", "LA", "La") else "RGB"


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what converts colours of a mode to sRGB, None for a profile of sRGB itself or of no use."""
    if mode == "LAB":
        return None  # the numbers are colours by themselves
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", flags=FLAGS[mode])
    except (ImageCms.PyCMSError, OSError):
        return None
    grid = np.stack(np.meshgrid(*(GRID,) * len(mode)), -1).reshape(1, -1, len(mode))
    image = Image.frombytes(mode, (grid.shape[1], 1), grid.tobytes())
    change = np.abs(np.asarray(image.convert("RGB"), int) - np.asarray(transform.apply(image), int))
    return transform if change.max() > SAME_COLOUR else None
