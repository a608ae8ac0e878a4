import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.regions.finder import without_specks


@given(height=st.integers(40, 300), width=st.integers(40, 300))
def test_specks_go_and_pieces_of_one_size_stay(height: int, width: int) -> None:
    region = torch.zeros(height, width, dtype=torch.bool)
    region[2:14, 2:14] = True
    other = region.clone()
    other[20:32, 22:34] = True
    assert torch.equal(without_specks(other), other)
    specked = region.clone()
    specked[34:37, 36:38] = True
    specked[32, 2] = True
    assert torch.equal(without_specks(specked), region)


def test_of_an_empty_region_nothing_is_left_and_of_a_whole_one_all() -> None:
    empty = torch.zeros(30, 90, dtype=torch.bool)
    assert torch.equal(without_specks(empty), empty)
    assert torch.equal(without_specks(~empty), ~empty)


def test_pieces_that_touch_at_a_corner_are_one() -> None:
    region = torch.zeros(32, 32, dtype=torch.bool)
    region[0:10, 0:10] = region[10:12, 10:12] = True
    assert torch.equal(without_specks(region), region)
