"""Which split a source belongs to. The only place that decides."""

import hashlib

from engine.runfile import Splits
from engine.sample import Split


def split_of(split_key: str, splits: Splits, seed: int) -> Split:
    """Return the split of a source, a function of its split key and the seed alone: the splits' own, or the run's.

    Adding or removing sources moves no other source; changing the shares moves as few as possible.
    """
    chosen = seed if splits.seed is None else splits.seed
    digest = hashlib.blake2b(f"split/{chosen}/{split_key}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    # From the ends, so that a share of 0 stays empty whatever the sum rounds to.
    if place < splits.train:
        return "train"
    if place >= 1 - splits.test:
        return "test"
    return "validation" if splits.validation > 0 else "train"
