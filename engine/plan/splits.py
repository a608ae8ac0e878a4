"""The split of each source, by a hash of its split key."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engine.runfile.data import Splits
from engine.sample import Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
# On which arms are scored. More would cost time at every checkpoint and say little: the interval of an accuracy near
# 0.9 is +- 0.6 points here.
MAX_VALIDATION_IMAGES = 10_000


def split_of(split_key: str, splits: Splits, seed: int) -> Split:
    """Return the split of a source, a function of its split key and the seed alone: the splits' own, or the run's.

    Adding or removing sources moves no other source; changing the shares moves as few as possible.
    """
    (place,) = splits_of([split_key], splits, seed).tolist()
    return SPLITS[int(place)]


def splits_of(split_keys: Sequence[str], splits: Splits, seed: int) -> npt.NDArray[np.int8]:
    """Return the split of each source, as an index into SPLITS."""
    place = hashes(f"split/{seed if splits.seed is None else splits.seed}/", split_keys) / 2.0**64
    found = np.full(len(place), SPLITS.index("validation" if splits.validation > 0 else "train"), np.int8)
    # From the ends, so that a share of 0 stays empty whatever the sum rounds to.
    found[place >= 1 - splits.test] = SPLITS.index("test")
    found[place < splits.train] = SPLITS.index("train")
    return found


def hashes(prefix: str, texts: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of each text; the prefix separates uses of the same text."""
    started = hashlib.blake2b(prefix.encode(), digest_size=8)
    digests = bytearray()
    for text in texts:
        hasher = started.copy()
        hasher.update(text.encode())
        digests += hasher.digest()
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)
