import torch

from actors.compositor.cutout import covering, cut_out
from actors.compositor.fill import filled


def test_known_pixels_stay_and_a_hole_in_one_colour_takes_it() -> None:
    picture = torch.tensor([0.2, 0.5, 0.9])[:, None, None].expand(3, 21, 34).clone()
    known = torch.ones(21, 34)
    known[5:15, 8:30] = 0
    damaged = picture * known
    assert torch.allclose(filled(damaged, known), picture, atol=1e-5)
    picture[:, 0, 0] = 0.77
    assert torch.equal(filled(picture, known)[:, 0, 0], picture[:, 0, 0])


def test_a_hole_goes_over_from_one_side_to_the_other() -> None:
    ramp = torch.linspace(0, 1, 64).expand(3, 64, 64)
    known = torch.ones(64, 64)
    known[24:40, 24:40] = 0
    found = filled(ramp * known, known)
    assert float((found - ramp).abs().max()) < 0.15
    assert float(found.max()) <= 1


def test_a_picture_without_a_known_pixel_is_black_not_undefined() -> None:
    assert torch.equal(filled(torch.ones(3, 5, 7), torch.zeros(5, 7)), torch.zeros(3, 5, 7))


def test_an_object_takes_none_of_its_old_ground_along() -> None:
    # A red disc on green, its edge half of each.
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    alpha = (10.5 - ((rows - 20) ** 2 + (columns - 20) ** 2).sqrt()).clamp(0, 1)
    red, green, blue = (torch.eye(3)[channel][:, None, None] for channel in range(3))
    picture = red * alpha + green * (1 - alpha)
    true = red * alpha + blue * (1 - alpha)
    made = cut_out(picture, alpha).on(blue.expand(3, 10, 15).clone())
    assert float(made[1].max()) < 1e-5
    assert float((made - true).abs().max()) < 0.35  # the probability is sharpened


def test_a_ground_of_another_shape_is_cut_to_cover() -> None:
    ground = torch.linspace(0, 1, 90).expand(3, 20, 90)
    cut = covering(ground, torch.Size((40, 40)))
    assert cut.shape == (3, 40, 40)
    # A square of its middle: the outer shares of a wide photograph are cut off.
    assert 0.3 < float(cut.min()) < float(cut.max()) < 0.7
