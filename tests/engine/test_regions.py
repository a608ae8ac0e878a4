"""Regions as text: each mask comes back as it was, and no other text is read."""

import numpy as np
import pytest

from engine.regions import decode_region, decode_regions, encode_region, join_regions


def test_runs_go_row_by_row_and_begin_outside() -> None:
    assert encode_region(np.array([[False, True, True], [True, False, False]])) == "2x3:1,3,2"
    assert encode_region(np.array([[True, False], [False, True]])) == "2x2:0,1,2,1"


@pytest.mark.parametrize(("inside", "text"), [(False, "3x5:15"), (True, "3x5:0,15")])
def test_a_region_of_nothing_or_all_is_one_run(inside: bool, text: str) -> None:
    mask = np.full((3, 5), inside)
    assert encode_region(mask) == text
    np.testing.assert_array_equal(decode_region(text), mask)


def test_each_mask_comes_back_as_it_was() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        mask = rng.uniform(size=rng.integers(1, 20, 2)) < rng.uniform()
        again = decode_region(encode_region(mask))
        assert again.dtype == np.bool_
        np.testing.assert_array_equal(again, mask)


def test_the_regions_of_turns_stand_one_behind_the_other() -> None:
    left, right = np.eye(3, 4, dtype=bool), np.zeros((5, 2), bool)
    assert join_regions("", encode_region(left)) == encode_region(left)
    both = join_regions(encode_region(left), encode_region(right))
    for found, mask in zip(decode_regions(both), (left, right), strict=True):
        np.testing.assert_array_equal(found, mask)
    with pytest.raises(ValueError, match="a region is"):
        decode_regions(both + ";")


@pytest.mark.parametrize(
    "text",
    ["", "3 4", "2x2", "2x2:", "2x2:1,,3", "0x2:0", "2x2:-1,5", "2x2:1,4", "2x2:1.0,3", "99999x2:199998", "２x2:4"],
)
def test_a_text_that_is_no_region_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="region"):
        decode_region(text)


@pytest.mark.parametrize("shape", [(4,), (0, 4), (2, 2, 3)])
def test_an_array_that_is_no_mask_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a mask has the shape"):
        encode_region(np.zeros(shape, bool))
