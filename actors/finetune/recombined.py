"""The real images of an arm that cuts and pastes: some with their object on the ground of another."""

import random

import numpy as np

from actors.finetune.arms.recombine import MOST_COVERED, OPAQUE, SHARE, Bytes, recombined
from actors.finetune.batches import DecodedImages, Drawn, RealImages
from actors.images.preprocessing import Preprocessing
from engine.sample import content_seed
from engine.sources import masked

# Other images that are tried as the ground before the image stays whole.
TRIES = 8


class RecombinedImages:
    """Real images of which SHARE are recombined; an image without a readable mask stays whole. Thread-safe."""

    def __init__(self, real: RealImages, preprocessing: Preprocessing) -> None:
        self._real = real
        source, items = masked(real.source), real.items
        self._mask = DecodedImages(lambda index: source.mask(items[index]), preprocessing)

    def draw(self, position: int, seed: int) -> Drawn:
        """Return image number `position` of the real images' walk, or its object elsewhere, its label and group."""
        index, pixels = self._real.drawn(position, seed)
        label, group = int(self._real.labels[index]), int(self._real.groups[index])
        rng = random.Random(content_seed(seed, f"recombine/{position}"))
        mask = self._opacity(index)
        if rng.random() >= SHARE or mask is None:
            return pixels, label, group
        for _ in range(TRIES):
            other = rng.randrange(len(self._real.items))
            ground, hole = self._real.image(other), self._opacity(other)
            if other != index and ground is not None and hole is not None and (hole > 0).mean() <= MOST_COVERED:
                image, onto = np.asarray(pixels, np.uint8), np.asarray(ground, np.uint8)
                return recombined(image, mask, onto, hole, rng), label, group
        return pixels, label, group

    def _opacity(self, index: int) -> Bytes | None:
        """Return the mask (height, width) of an image, None where it is not known or has nothing opaque."""
        pixels = self._mask(index)
        return None if pixels is None or pixels.max() < OPAQUE else np.asarray(pixels[0], np.uint8)
