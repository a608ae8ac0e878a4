"""The pictures that the zoo trains on: composites of garments that do not ship, rendered once and kept."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.wardrobe.garments import Garments, GarmentSplit, load_garments, read_fashion_mnist, split_garments
from engine.wardrobe.scene import SIZE, Scene, render

Number = TypeVar("Number", bound=np.generic)
PART = 250


@cache
def garments_of(split: GarmentSplit, fashion_mnist: Path) -> Garments:
    """Return the garments of a split, those that ship from the package and the others from Fashion-MNIST itself."""
    if split in ("sources", "heldout"):
        return load_garments(split)
    return split_garments(read_fashion_mnist(fashion_mnist))[split]


def rendered(path: Path, scenes: Sequence[Scene], garments: Garments) -> NDArray[np.uint8]:
    """Return the pictures of scenes, (num_scenes, SIZE, SIZE, 3) uint8, from beside `path` where they were rendered.

    The file's name ends in a digest of the scenes: others are never taken for them.
    """

    def make() -> NDArray[np.uint8]:
        pictures = np.empty((len(scenes), SIZE, SIZE, 3), np.uint8)
        for index, scene in enumerate(scenes):
            pictures[index] = render(scene, garments)[0]
        return pictures

    return made_once(of_scenes(path, scenes), make)


def of_scenes(path: Path, scenes: Sequence[Scene]) -> Path:
    """Return the path with a digest of the scenes in its name."""
    digest = hashlib.blake2b(repr(list(scenes)).encode(), digest_size=4).hexdigest()
    return path.with_stem(f"{path.stem}-{digest}")


def made_once(path: Path, make: Callable[[], NDArray[Number]]) -> NDArray[Number]:
    """Return the array of `path`, read as it is needed; where there is none, make and write it first."""
    if not path.exists():
        partial = path.with_suffix(".partial.npy")
        np.save(partial, make())
        partial.rename(path)
    kept: NDArray[Number] = np.load(path, mmap_mode="r")
    return kept


def to_tensor(pictures: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return (n, 3, 64, 64) float32 in [-1, 1]. Contiguous: channels-last convolutions were slower on the CPU."""
    return torch.from_numpy(np.array(pictures)).to(device).permute(0, 3, 1, 2).contiguous() / 127.5 - 1


@torch.no_grad()
def in_parts(network: Callable[[Tensor], Tensor], pictures: NDArray[np.uint8], device: torch.device) -> NDArray[Any]:
    """Return what a network makes of many pictures, (n, 64, 64, 3) uint8: a part of them at a time."""
    parts = (pictures[start : start + PART] for start in range(0, len(pictures), PART))
    return torch.cat([network(to_tensor(part, device)).cpu() for part in parts]).numpy()


def save_image_processor(folder: Path, name: str) -> None:
    """Write preprocessor_config.json: 64 pixels, [-1, 1]. By hand, as making the object would pick a backend."""
    settings = {
        "image_processor_type": name,
        "do_resize": True,
        "size": {"height": SIZE, "width": SIZE},
        "do_center_crop": False,
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_convert_rgb": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
