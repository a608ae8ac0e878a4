"""Make the shipped files of the wardrobe: the garments and the textures of engine/wardrobe."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.wardrobe.garments import SHIPPED, read_fashion_mnist, split_garments
from engine.wardrobe.scene import TEXTURES

EDGE = 512


def write_wardrobe_files(fashion_mnist: Path) -> None:
    """Write garments.npz and textures/*.jpg into engine/wardrobe."""
    splits = split_garments(read_fashion_mnist(fashion_mnist))
    sources, heldout = splits["sources"], splits["heldout"]
    np.savez_compressed(
        SHIPPED,
        sources_images=sources.images,
        sources_labels=sources.labels,
        heldout_images=heldout.images,
        heldout_labels=heldout.labels,
    )
    TEXTURES.mkdir(exist_ok=True)
    for name, pixels in make_textures().items():
        Image.fromarray(pixels).save(TEXTURES / f"{name}.jpg", quality=88)


def make_textures() -> dict[str, NDArray[np.uint8]]:
    """Return eight textures, (512, 512, 3) uint8: tinted photographs of scikit-image, and a drawn sky and wood."""
    from skimage import data

    grass, gravel, brick = (_standardised(photo()) for photo in (data.grass, data.gravel, data.brick))
    return {
        "grass": _tinted(grass, (70, 120, 45), 28),
        "gravel": _tinted(gravel, (125, 122, 118), 38),
        "brick": _tinted(brick, (150, 75, 55), 30),
        "sand": _tinted(_tiled(_scaled(gravel, 256, 256)), (214, 184, 130), 13),
        "sky": _sky(),
        "water": _tinted(_tiled(_scaled(grass, 1024, 256))[:, :EDGE], (35, 95, 150), 22),
        "snow": _tinted(_scaled(grass, 700, 700)[:EDGE, :EDGE], (235, 240, 247), 8),
        "wood": _tinted(_wood(), (140, 95, 55), 22),
    }


def _standardised(photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    grey = photo.astype(np.float32)
    return np.asarray((grey - grey.mean()) / grey.std(), np.float32)


def _scaled(grey: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR), np.float32)


def _tiled(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Repeat a texture, mirrored so that no seam shows, until it is large enough."""
    while min(grey.shape) < EDGE:
        grey = np.concatenate([grey, grey[::-1]]) if grey.shape[0] < EDGE else np.concatenate([grey, grey[:, ::-1]], 1)
    return grey


def _tinted(grey: NDArray[np.float32], colour: tuple[int, int, int], contrast: float) -> NDArray[np.uint8]:
    pixels = np.array(colour, np.float32) + grey[..., None] * contrast
    return np.clip(pixels, 0, 255).round().astype(np.uint8)


def _sky() -> NDArray[np.uint8]:
    down = np.linspace(0, 1, EDGE, dtype=np.float32)[:, None, None]
    pixels = np.array([120, 170, 235], np.float32) + down * np.array([85, 57, 0], np.float32)
    return np.broadcast_to(pixels, (EDGE, EDGE, 3)).round().astype(np.uint8)


def _wood() -> NDArray[np.float32]:
    y, x = np.mgrid[0:EDGE, 0:EDGE].astype(np.float32)
    rng = np.random.default_rng(0)
    drift = rng.normal(0, 0.15, (EDGE, EDGE)).cumsum(0) / 8
    return _standardised(np.sin(x / 9 + 3 * np.sin(y / 90) + drift) + rng.normal(0, 0.25, (EDGE, EDGE)))
