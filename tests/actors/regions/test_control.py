import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.regions.control import control_box


@given(seed=st.integers(0, 2**32), height=st.integers(1, 9), width=st.integers(1, 9))
def test_a_control_is_as_large_as_the_box_of_its_region_and_elsewhere(seed: int, height: int, width: int) -> None:
    region = torch.zeros(30, 40, dtype=torch.bool)
    region[20 : 20 + height, 30 : 30 + width] = True
    region[20, 30] = height * width == 1
    region[20, 30 + width - 1] = region[20 + height - 1, 30] = True
    main = torch.zeros_like(region)
    main[:, 15:25] = True
    box = control_box(region, (main,), seed)
    assert int(box.sum()) == height * width
    assert not (box & region).any()
    assert not (box & main).any()
    assert torch.equal(box, control_box(region, (main,), seed))


def test_where_no_place_is_free_the_least_bad_one_is_taken() -> None:
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[:6, :6] = True
    box = control_box(region, (torch.ones_like(region),), 1)
    assert int(box.sum()) == 36
