"""Edits that are left out of training: those with held-out phrases, or all but a share.

Accuracy on held-out phrases shows whether more was learned than the words of the edits; shares of the edits show how
many are enough.
"""

import hashlib

from engine.probe.phrases import plain_phrase
from engine.sample import by_turn


def is_held_out(kind: str, after: str, phrases: float | tuple[str, ...]) -> bool:
    """Return whether a new value of an edit is held out, by `reinforce.held_out_phrases`: a share of all, or a list.

    Words count as in the ranking of phrases: without case, double spaces or plural. The hash of kind and words has no
    seed: the split cannot be drawn again for a better result, and a phrase is held out in every run. Of an edit of
    several turns no phrase may be held out.
    """
    found = [(each, plain_phrase(value)) for each, value in by_turn(kind, after)]
    if isinstance(phrases, tuple):
        held_out = set(map(plain_phrase, phrases))
        return any(words in held_out for _, words in found)
    return any(_hash(f"held out/{each}/{words}") < phrases for each, words in found)


def is_of_share(key: str, share: float) -> bool:
    """Return whether an edit is in the share that is trained on, by a hash of its key: smaller shares are subsets."""
    return _hash(f"edit share/{key}") < share


def _hash(text: str) -> float:
    """Return the hash of a text, in [0, 1)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
