"""Perceptual hashes: one picture in two files is found, two pictures are not taken for one."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from engine.plan.image_hash import MAX_DISTANCE, Hashes, image_hash, near_pairs
from engine.runfile.data import WardrobeSource
from engine.sources import UnreadableItemError, open_source

NUM_COMPOSITES = 400


@pytest.fixture(scope="module")
def composites() -> list[bytes]:
    source = open_source(WardrobeSource(count=NUM_COMPOSITES, correlation=0.99))
    return [source.read(item) for item in source.items()]


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def hashes_of(images: list[bytes]) -> Hashes:
    found = [image_hash(data) for data in images]
    return np.frombuffer(b"".join(value or b"" for value in found), np.uint64).reshape(-1, 4)


def distance(one: bytes, other: bytes) -> int:
    first, second = hashes_of([one, other])
    return int(np.bitwise_count(first ^ second).sum())


def pairs_of(hashes: Hashes) -> set[tuple[int, int]]:
    return {
        (min(pair), max(pair))
        for left, right in near_pairs(hashes)
        for pair in zip(left.tolist(), right.tolist(), strict=True)
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda image: encoded(image, "JPEG", quality=50),
        lambda image: encoded(image.resize((256, 256), Image.Resampling.BICUBIC), "JPEG", quality=80),
        lambda image: encoded(image.resize((48, 48), Image.Resampling.BICUBIC)),
        lambda image: encoded(image.point(lambda value: value * 0.7 + 20)),
        lambda image: encoded(image.convert("L")),
    ],
    ids=["jpeg", "larger", "smaller", "duller", "grey"],
)
def test_a_picture_is_known_again(composites: list[bytes], change: Callable[[Image.Image], bytes]) -> None:
    for data in composites[:40]:
        with Image.open(io.BytesIO(data)) as image:
            assert distance(data, change(image.convert("RGB"))) <= MAX_DISTANCE


def test_a_picture_that_lies_on_its_side_is_known_by_its_orientation(composites: list[bytes]) -> None:
    with Image.open(io.BytesIO(composites[0])) as image:
        upright = image.convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it a quarter to the right to see it upright
    turned = encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)
    assert distance(composites[0], turned) <= MAX_DISTANCE


def test_different_garments_on_one_background_are_different_pictures(composites: list[bytes]) -> None:
    hashes = hashes_of(composites)
    assert len(hashes) == NUM_COMPOSITES
    assert pairs_of(hashes) == set()


def test_a_plain_image_has_no_hash_and_a_damaged_one_is_said() -> None:
    assert image_hash(encoded(Image.new("RGB", (200, 100), "white"))) is None
    with pytest.raises(UnreadableItemError):
        image_hash(b"no image")


def test_no_near_pair_is_missed() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2**64, (300, 4), dtype=np.uint64)
    flips = np.zeros((300, 256), bool)
    for row, count in enumerate(rng.integers(1, 60, 300)):
        flips[row, rng.choice(256, count, replace=False)] = True
    hashes = np.concatenate([first, first ^ np.packbits(flips, axis=1).view(np.uint64)])
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2)
    expected = {(int(i), int(j)) for i, j in np.argwhere(apart <= MAX_DISTANCE) if i < j}
    assert len(expected) > 100
    assert pairs_of(hashes) == expected
