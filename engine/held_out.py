"""Edit phrases that training never sees: what was learned is more than their words if it holds for these too."""

import hashlib

from engine.phrases import plain_phrase


def is_held_out(kind: str, after: str, phrases: float | tuple[str, ...]) -> bool:
    """Return whether a new value of an edit is held out, by `reinforce.held_out_phrases`: a share of all, or a list.

    Words count as in the ranking of phrases: without case, double spaces or plural. The hash is of kind and words alone
    and has no seed: nobody can draw until the phrases suit, and a phrase is held out in every run.
    """
    words = plain_phrase(after)
    if isinstance(phrases, tuple):
        return words in map(plain_phrase, phrases)
    digest = hashlib.blake2b(f"held out/{kind}/{words}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < phrases
