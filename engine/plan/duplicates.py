"""Near-duplicates share a split, and near-duplicates of test images are left out of the training data.

Near-duplicate sources (engine.plan.image_hash) get one split key, the smallest of theirs, as does every source that
shares a key with one of them. A source of data.train that is a near-duplicate of an image of data.test or data.shifted
is left out of the plan, validation included, since training on it would leak the test set. The test sets stay as they
are, as others may use them too. The classifier under test may have been trained on such images; that cannot be undone
here. An added image moves a group only where it joins it with a smaller key, and no other source.

The wardrobe is not searched: its split key is the garment, known exactly, and hashing it means rendering it all.
Neither is data.oracle, whose arm is no candidate to ship.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from engine.plan.hash_store import HashStore, Looks
from engine.plan.image_hash import Rows, near_pairs
from engine.plan.listing import Listing
from engine.runfile.data import WardrobeSource
from engine.runfile.run import RunFile
from engine.sources import SourceItem, open_source

NUM_EXAMPLES = 20
EXAMPLES_SHOWN = 3
# A group of at least this share of the sources, and so many of them, is hardly one photograph taken several times.
SUSPICIOUS_SHARE, SUSPICIOUS_KEYS = 0.02, 20

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """Images of one set of `num_images` that cannot be read: their number by reason, and locators as examples."""

    num_images: int
    reasons: Mapping[str, int]
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Findings: `num_images` were hashed, `num_without` of them have no hash (low contrast, or unreadable).

    `num_groups` groups hold `num_joined` sources, `largest` of them the largest group. `left_out` counts the sources
    that are near-duplicates of an image of a test set, by the set's field. Examples are pairs of locators, of two
    sources or of a source and a test image. `unreadable` are sources and test images, by the set's field.
    """

    num_images: int = 0
    num_without: int = 0
    num_groups: int = 0
    num_joined: int = 0
    largest: int = 0
    examples: tuple[Pair, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    left_out_examples: Mapping[str, tuple[Pair, ...]] = field(default_factory=dict)
    unreadable: Mapping[str, Unreadable] = field(default_factory=dict)

    def describe(self) -> list[str]:
        """Return lines for people: numbers of joined and left-out sources, and examples."""
        lines = [f"near-duplicates: {self.num_images:,} images looked at, {self.num_without:,} too plain or unreadable"]
        if self.num_groups:
            lines.append(
                f"  {self.num_joined:,} sources look alike in {self.num_groups:,} groups (the largest has "
                f"{self.largest:,}): each group is in one split, such as {_name_pairs(self.examples)}"
            )
        lines += [
            f"  {count:,} sources left out, they look like images of data.{name}: "
            f"{_name_pairs(self.left_out_examples[name])}"
            for name, count in self.left_out.items()
        ]
        return lines if len(lines) > 1 else [f"{lines[0]}, none found"]

    def warning(self, num_sources: int) -> str | None:
        """Return a warning where one group covers an implausible share of the sources; None otherwise."""
        if self.largest < max(SUSPICIOUS_KEYS, SUSPICIOUS_SHARE * num_sources):
            return None
        return (
            f"{self.largest:,} of {num_sources:,} sources look alike and are kept in one split. Where they do not, as "
            "pictures of one fixed camera may, set data.near_duplicates: off and name what belongs together as `group`"
        )


def separate(listing: Listing, run: RunFile, store: HashStore) -> tuple[Listing, NearDuplicates | None]:
    """Return the listing with near-duplicates under one split key and without those of test images; and the findings.

    No findings (None) where data.near_duplicates is off or the sources are the wardrobe's.
    """
    data = run.data
    if data.near_duplicates == "off" or isinstance(data.train, WardrobeSource):
        return listing, None
    looks = store.looks(data.train, _items(listing))
    num_images, num_without = len(looks.there), int((~looks.there).sum())
    locators = listing.texts["locator"].to_pylist()
    left_out: dict[str, int] = {}
    examples: dict[str, tuple[Pair, ...]] = {}
    unreadable = _unreadable("train", looks, locators)
    gone = np.zeros(num_images, bool)
    for name, config in (("test", data.test), ("shifted", data.shifted)):
        if config is None or isinstance(config, WardrobeSource):
            continue
        items = list(open_source(config).items())
        theirs = store.looks(config, items)
        unreadable |= _unreadable(name, theirs, [item.locator for item in items])
        num_images, num_without = num_images + len(items), num_without + int((~theirs.there).sum())
        like = _like(looks, theirs)
        found = np.flatnonzero(like < len(items))
        if len(found):
            gone[found] = True
            left_out[name] = len(found)
            pairs = sorted((locators[row], items[like[row]].locator) for row in found.tolist())
            examples[name] = tuple(pairs[:NUM_EXAMPLES])
    kept = listing.keep(np.flatnonzero(~gone)) if gone.any() else listing
    joined, groups = _join(kept, Looks(hashes=looks.hashes[~gone], there=looks.there[~gone]), run)
    return joined, replace(
        groups,
        num_images=num_images,
        num_without=num_without,
        left_out=left_out,
        left_out_examples=examples,
        unreadable=unreadable,
    )


def _unreadable(name: str, looks: Looks, locators: Sequence[str]) -> dict[str, Unreadable]:
    if not looks.unreadable:
        return {}
    reasons = dict(Counter(looks.unreadable.values()).most_common())
    examples = tuple(sorted(locators[row] for row in looks.unreadable)[:NUM_EXAMPLES])
    return {name: Unreadable(num_images=len(locators), reasons=reasons, examples=examples)}


def _like(ours: Looks, theirs: Looks) -> Rows:
    """Return for each of ours the first near-duplicate of theirs; len(theirs) where there is none."""
    none = len(theirs.there)
    rows, number, pairs = _distinct(
        Looks(hashes=np.concatenate([ours.hashes, theirs.hashes]), there=np.concatenate([ours.there, theirs.there]))
    )
    first = np.full(number.max(initial=-1) + 1, none)
    is_theirs = rows >= len(ours.there)
    np.minimum.at(first, number[is_theirs], rows[is_theirs] - len(ours.there))
    reached = first.copy()
    for left, right in pairs:
        np.minimum.at(reached, left, first[right])
        np.minimum.at(reached, right, first[left])
    result = np.full(len(ours.there), none)
    result[rows[~is_theirs]] = reached[number[~is_theirs]]
    return result


def _join(listing: Listing, looks: Looks, run: RunFile) -> tuple[Listing, NearDuplicates]:
    """Give near-duplicate sources one split key, the smallest of theirs; return the new listing and the findings."""
    keys, locators = (listing.texts[name].to_pylist() for name in ("split_key", "locator"))
    pairs = _near_duplicates(looks)
    group_of = _components((keys[one], keys[other]) for one, other in pairs)
    joined = [group_of.get(key, key) for key in keys]
    # Sources that shared one split key before are no new group.
    groups = set(group_of.values())
    sizes = Counter(key for key in joined if key in groups)
    examples = sorted(sorted((locators[one], locators[other])) for one, other in pairs if keys[one] != keys[other])
    found = NearDuplicates(
        num_groups=len(groups),
        num_joined=sum(sizes.values()),
        largest=max(sizes.values(), default=0),
        examples=tuple((one, other) for one, other in examples[:NUM_EXAMPLES]),
    )
    return (listing.with_split_keys(joined, run.data.splits, run.seed) if groups else listing), found


def _near_duplicates(looks: Looks) -> set[tuple[int, int]]:
    """Return pairs of rows whose hashes are equal or near, enough to connect each group of near-duplicates."""
    rows, number, near = _distinct(looks)
    first = np.zeros(number.max(initial=-1) + 1, np.int64)
    first[number[::-1]] = rows[::-1]  # the first row of each distinct hash
    linked = [(first[number], rows), *((first[left], first[right]) for left, right in near)]
    pairs = {pair for left, right in linked for pair in zip(left.tolist(), right.tolist(), strict=True)}
    return pairs - {(row, row) for row in rows.tolist()}


def _distinct(looks: Looks) -> tuple[Rows, Rows, list[tuple[Rows, Rows]]]:
    """Return the rows with a hash, the number of each one's distinct hash, and pairs of numbers of near hashes."""
    rows = np.flatnonzero(looks.there)
    hashes, number = np.unique(looks.hashes[rows], axis=0, return_inverse=True)
    return rows, number.reshape(-1), list(near_pairs(hashes)) if len(rows) else []


def _components(pairs: Iterable[Pair]) -> dict[str, str]:
    """Return the smallest name of the connected component of each name that occurs in a pair (union-find)."""
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while (higher := above.get(name, name)) != name:
            above[name] = above.get(higher, higher)
            name = higher
        return name

    for one, other in pairs:
        low, high = sorted((top(one), top(other)))
        if low != high:
            above[high] = low
    return {name: top(name) for name in {*above, *above.values()}}


def _items(listing: Listing) -> list[SourceItem]:
    keys, locators = (listing.texts[name].to_pylist() for name in ("key", "locator"))
    return [
        SourceItem(key=key, split_key="", label=0, class_name="", locator=locator)
        for key, locator in zip(keys, locators, strict=True)
    ]


def _name_pairs(pairs: Sequence[Pair]) -> str:
    return ", ".join(f"{one} ~ {other}" for one, other in pairs[:EXAMPLES_SHOWN])
