"""Perceptual hashes: 256 bits of an image that survive re-encoding, resizing and a change of brightness.

After PDQ (Facebook 2019, "The TMK+PDQF video-hashing algorithm and the PDQ image-hashing algorithm"): brightness at
64 x 64, its 16 x 16 lowest frequencies but the constant, each a bit by the median; images of low contrast have none.
Pillow's box filter takes the place of PDQ's, so the bits are not those of other programs. A crop of 3 % or a mirrored
image has another hash.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from engine.sources.decode import grey_pixels

EDGE = 64
NUM_FREQUENCIES = 16
HASH_BYTES = NUM_FREQUENCIES**2 // 8
# PDQ's own limit. Of 8,000 wardrobe composites at 64 pixels no two of different garments are as near (32 million pairs,
# the nearest differ in 33 to 40 bits), while JPEG at quality 20 differs in at most 31.
MAX_DISTANCE = 31
# Mean difference of neighbouring pixels, of 255. Below it the hash of a sky or a blank page is noise. PDQ: quality 50.
MIN_STEP = 1.4
# Where two hashes differ in at most 31 bits, some band of these differs in at most 1 (Norouzi et al. 2012).
NUM_BANDS = (MAX_DISTANCE + 1) // 2
BAND_BITS = 8 * HASH_BYTES // NUM_BANDS
PAIRS_AT_ONCE = 1 << 20

Hashes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]


def image_hash(data: bytes) -> bytes | None:
    """Return the hash of an encoded image, None for low contrast; UnreadableItemError where it is damaged."""
    grey = grey_pixels(data, EDGE).astype(np.float64)
    steps = [float(np.abs(np.diff(grey, axis=axis)).mean()) for axis in (0, 1)]
    if sum(steps) / 2 < MIN_STEP:
        return None
    cosines = _cosines()
    found = cosines @ grey @ cosines.T
    return np.packbits(found > np.median(found)).tobytes()


def near_pairs(hashes: Hashes) -> Iterator[tuple[Rows, Rows]]:
    """Yield row numbers of hashes (n, 4), all different, that differ in at most MAX_DISTANCE bits; a pair may recur.

    No pair is missed. Only hashes that nearly agree in one band of 16 bits are compared: of random ones 1 pair in 240.
    """
    bands = hashes.view(np.uint16)
    for band in range(NUM_BANDS):
        order = np.argsort(bands[:, band], kind="stable")
        values = bands[order, band]
        for mask in (0, *(1 << bit for bit in range(BAND_BITS))):
            for left, right in _equal(values, np.uint16(mask)):
                first, second = order[left], order[right]
                distance = np.bitwise_count(hashes[first] ^ hashes[second]).sum(axis=1)
                near = distance <= MAX_DISTANCE
                if near.any():
                    yield first[near], second[near]


def _equal(values: npt.NDArray[np.uint16], mask: np.uint16) -> Iterator[tuple[Rows, Rows]]:
    """Yield the positions of pairs of sorted values that differ by the mask, each pair once, in chunks.

    A position's partners are a run of `count` positions from `start`. Values [1, 1, 3], mask 0: position 0 has start 1
    and count 1, the pair (0, 1). Mask 2 (1 ^ 2 = 3): positions 0 and 1 have start 2 and count 1, position 2 has none.
    """
    positions = np.arange(len(values))
    partner = values ^ mask
    start = np.searchsorted(values, partner, "left")
    count = np.searchsorted(values, partner, "right") - start
    if mask:
        count[values > partner] = 0
    else:
        count, start = start + count - positions - 1, positions + 1
    ends = np.cumsum(count)
    begin = 0
    while begin < len(values):
        done = ends[begin - 1] if begin else 0
        # At least one position a chunk: one value may have more than PAIRS_AT_ONCE partners.
        end = max(begin + 1, int(np.searchsorted(ends, done + PAIRS_AT_ONCE, "right")))
        part = count[begin:end]
        left, first = np.repeat(positions[begin:end], part), np.repeat(start[begin:end], part)
        # Pair number minus the number of the position's first pair: 0, 1, ... along each run of partners.
        offset = np.arange(len(left)) - np.repeat(np.cumsum(part) - part, part)
        if len(left):
            yield left, first + offset
        begin = end


def _cosines() -> npt.NDArray[np.float64]:
    """Return the cosines of frequencies 1 to 16 (16, 64)."""
    frequency = np.arange(1, NUM_FREQUENCIES + 1)[:, None]
    place = 2 * np.arange(EDGE)[None, :] + 1
    return np.asarray(np.cos(np.pi / (2 * EDGE) * frequency * place), np.float64)
