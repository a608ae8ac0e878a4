"""The halves of the validation images: one chooses weights, the other, which no choice saw, decides on shipping."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

# Two-sided, a sign test of five sources cannot reach p < 0.05; one cluster has no standard error.
MIN_EDIT_KEYS, MIN_REAL_KEYS = 6, 2


@dataclass(frozen=True, kw_only=True)
class Half:
    """Positions of real validation images and of validation edits; `num_keys` split keys of readable real images."""

    real: tuple[int, ...]
    edits: tuple[int, ...]
    num_keys: int


@dataclass(frozen=True, kw_only=True)
class Halves:
    """The half that chooses, and the one that decides; `apart` is False where both are all images."""

    choosing: Half
    deciding: Half
    apart: bool


def split_halves(real: str, real_groups: Sequence[str], edit_groups: Sequence[str]) -> Halves:
    """Return the halves of the validation images by split key: real images and edits of one key stay together.

    `real` are the marks of the real images; those that cannot be read ("-") count for no half. With fewer than
    MIN_EDIT_KEYS keys of edits, or MIN_REAL_KEYS of real images, in a half, all images choose and decide.
    """
    chosen, kept = (_half(real, real_groups, edit_groups, {side}) for side in (True, False))
    fewest_edits = min(len({edit_groups[place] for place in half.edits}) for half in (chosen, kept))
    if min(chosen.num_keys, kept.num_keys) >= MIN_REAL_KEYS and (fewest_edits >= MIN_EDIT_KEYS or not edit_groups):
        return Halves(choosing=chosen, deciding=kept, apart=True)
    whole = _half(real, real_groups, edit_groups, {True, False})
    return Halves(choosing=whole, deciding=whole, apart=False)


def chooses(split_key: str) -> bool:
    """Return whether the images of a split key choose weights; those of the others decide.

    The hash has no seed: nobody can draw halves until a classifier ships.
    """
    return bool(hashlib.blake2b(f"ship/{split_key}".encode(), digest_size=1).digest()[0] & 1)


def _half(real: str, real_groups: Sequence[str], edit_groups: Sequence[str], sides: set[bool]) -> Half:
    places, edits = (
        tuple(place for place, key in enumerate(groups) if chooses(key) in sides)
        for groups in (real_groups, edit_groups)
    )
    readable = tuple(place for place in places if real[place] != "-")
    return Half(real=readable, edits=edits, num_keys=len({real_groups[place] for place in readable}))
