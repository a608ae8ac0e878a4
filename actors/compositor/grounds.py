"""Photographs of grounds, found by the words of an edit."""

from functools import lru_cache

import numpy as np
import torch

from actors.images.codec import UnreadableImageError, decode_whole
from actors.regions.finder import Pixels
from engine.errors import SourceError
from engine.names import class_words, named_class
from engine.runfile.data import AnySource
from engine.sources import open_source, stored_image
from engine.sources.item import UnreadableItemError

NUM_KEPT = 256


class Grounds:
    """Find a photograph whose class an edit names; each is read when it is first wanted."""

    def __init__(self, config: AnySource) -> None:
        self._source = open_source(config)
        self._items = {item.key: item for item in self._source.items()}
        self._by_class: dict[str, list[str]] = {}
        for item in self._items.values():
            self._by_class.setdefault(item.class_name, []).append(item.key)
        if not self._by_class:
            raise SourceError("grounds: there is no photograph in it")
        self._words = {name: class_words(name) for name in self._by_class}
        # A shard asks for the same photograph again and again.
        self._read = lru_cache(NUM_KEPT)(self._picture)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the grounds that there are."""
        return tuple(self._by_class)

    def named_in(self, phrase: str) -> str | None:
        """Return the ground that a phrase names; of several the one with the longest name, None without any."""
        return named_class(phrase, self._words)

    def photograph(self, name: str, seed: int) -> tuple[str, torch.Tensor | str]:
        """Return the key of a photograph of a ground, drawn by a seed, and its picture, (3, height, width) in [0, 1].

        In place of a picture that cannot be read comes the reason.
        """
        keys = self._by_class[name]
        key = keys[int(np.random.default_rng(seed).integers(len(keys)))]
        return key, self._read(key)

    def _picture(self, key: str) -> torch.Tensor | str:
        try:
            image = decode_whole(stored_image(self._source, self._source.read(self._items[key])))
        except (UnreadableItemError, UnreadableImageError) as error:
            return f"the photograph {key!r} of the grounds cannot be read: {error}"
        return to_picture(np.array(image))


def to_picture(pixels: Pixels) -> torch.Tensor:
    """Return pixels (height, width, 3) as (3, height, width) float32 in [0, 1]."""
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
