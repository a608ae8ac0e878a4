"""The garments: photographs of Fashion-MNIST in splits that share no garment, and their class names."""

import gzip
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.errors import SourceError

CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
GarmentSplit = Literal["zoo", "judge", "sources", "heldout"]
# Garments of each split among the 60,000 of the train split; every class has a tenth. The t10k split is used nowhere.
SPLIT_SIZES: dict[GarmentSplit, int] = {"zoo": 40_000, "judge": 12_000, "sources": 4_000, "heldout": 4_000}
SHIPPED = Path(__file__).parent / "garments.npz"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
SPLIT_SEED = 20_240_619


@dataclass(frozen=True, kw_only=True)
class Garments:
    """Greyscale photographs, (num_garments, 28, 28) uint8, bright on black, and their labels, (num_garments,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def of_class(self, label: int) -> NDArray[np.intp]:
        """Return the indices of the garments of one class."""
        return np.flatnonzero(self.labels == label)


@cache
def load_garments(split: GarmentSplit) -> Garments:
    """Return the garments of a split that ships with the package: sources or heldout."""
    with np.load(SHIPPED) as arrays:
        return Garments(images=arrays[f"{split}_images"], labels=arrays[f"{split}_labels"])


def read_fashion_mnist(folder: Path = DEBIAN_FOLDER) -> Garments:
    """Return the 60,000 photographs of the train split.

    Raises SourceError where the folder (searched in depth) has no train-images and train-labels in idx format.
    """
    images = np.frombuffer(_read_idx(folder, "train-images-idx3-ubyte"), np.uint8, offset=16).reshape(-1, 28, 28)
    labels = np.frombuffer(_read_idx(folder, "train-labels-idx1-ubyte"), np.uint8, offset=8)
    return Garments(images=images, labels=labels)


def split_garments(garments: Garments) -> dict[GarmentSplit, Garments]:
    """Cut the train split into disjoint splits, each with the same number of every class."""
    rng = np.random.default_rng(SPLIT_SEED)
    shuffled = [rng.permutation(garments.of_class(label)) for label in range(len(CLASSES))]
    splits: dict[GarmentSplit, Garments] = {}
    start = 0
    for name, size in SPLIT_SIZES.items():
        stop = start + size // len(CLASSES)
        chosen = np.stack([indices[start:stop] for indices in shuffled], axis=1).ravel()
        splits[name] = Garments(images=garments.images[chosen], labels=garments.labels[chosen])
        start = stop
    return splits


def _read_idx(folder: Path, name: str) -> bytes:
    found = sorted(folder.rglob(f"{name}*")) if folder.is_dir() else []
    if not found:
        raise SourceError(
            f"{folder} has no {name}: install Debian's package dataset-fashion-mnist, or give the folder that holds it"
        )
    data = found[0].read_bytes()
    return gzip.decompress(data) if found[0].suffix == ".gz" else data
