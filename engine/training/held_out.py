"""Edits that training never sees: by their phrase, or as only a share of all is wanted.

What was learned is more than the words of the edits if it holds for phrases that were held out; and training on shares
of the edits says how many are enough.
"""

import hashlib

from engine.probe.phrases import plain_phrase


def is_held_out(kind: str, after: str, phrases: float | tuple[str, ...]) -> bool:
    """Return whether a new value of an edit is held out, by `reinforce.held_out_phrases`: a share of all, or a list.

    Words count as in the ranking of phrases: without case, double spaces or plural. The hash is of kind and words alone
    and has no seed: nobody can draw until the phrases suit, and a phrase is held out in every run.
    """
    words = plain_phrase(after)
    if isinstance(phrases, tuple):
        return words in map(plain_phrase, phrases)
    return _place(f"held out/{kind}/{words}") < phrases


def is_of_share(key: str, share: float) -> bool:
    """Return whether an edit is of the share that is trained on, by its key alone: a smaller share is a part of it."""
    return _place(f"edit share/{key}") < share


def _place(text: str) -> float:
    """Return where in [0, 1) the hash of a text lies."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
