"""Finished pictures: the bytes are those of the rounded pixels, whatever the thread, the neighbours and the device."""

import hashlib
import io
from concurrent.futures import Future

import numpy as np
import pytest
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image

from actors.images.codec import encode_jpeg, encode_png
from actors.images.finisher import MAX_AHEAD, PIXELS_AT_ONCE, Finisher, to_pixels
from actors.images.frame import Frame, fit, to_tensor

CPU = torch.device("cpu")
QUALITY = 95
# As many rows of such a width are one piece of work.
WIDTH, ROWS = 512, PIXELS_AT_ONCE // 512


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def whole(picture: torch.Tensor) -> Frame:
    """The frame of a picture that fills its square."""
    _, height, width = picture.shape
    return Frame(pixels=np.zeros((height, width, 3), np.uint8), top=0, left=0, height=height, width=width)


def begin(finisher: Finisher, picture: torch.Tensor) -> "Future[bytes | None]":
    return finisher.start(picture, whole(picture))


def rounded(picture: torch.Tensor) -> NDArray[np.uint8]:
    """What the pipelines of diffusers make of a picture."""
    return np.asarray((picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0))


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (ROWS, WIDTH), (ROWS + 1, WIDTH), (3 * ROWS - 1, WIDTH - 1)])
def test_a_picture_has_the_bytes_of_its_rounded_pixels(size: tuple[int, int]) -> None:
    # Beyond [0, 1] too, as after detail is put back.
    picture = torch.rand((3, *size), generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    assert begin(Finisher(QUALITY, CPU), picture).result() == encode_jpeg(rounded(picture), QUALITY)


def test_halves_are_rounded_to_even() -> None:
    picture = ((torch.arange(255) + 0.5) / 255).expand(3, 1, 255)
    pixels = torch.empty(1, 255, dtype=torch.int32)
    to_pixels(picture, pixels)
    assert np.array_equal(pixels.numpy()[0] & 0xFF, rounded(picture)[0, :, 0])


def test_a_frame_gives_the_picture_back() -> None:
    image = Image.fromarray(noise(20, 32))
    frame = fit(image, 32)
    assert frame.pixels.shape == (32, 32, 3)
    finished = Finisher(QUALITY, CPU).start(to_tensor([frame])[0], frame).result()
    assert finished == encode_jpeg(np.asarray(image), QUALITY)


def test_neither_threads_nor_neighbours_change_a_byte() -> None:
    pictures = [torch.from_numpy(noise(90, 70, seed)).permute(2, 0, 1) / 255 for seed in range(24)]
    alone = [begin(Finisher(QUALITY, CPU, num_threads=1), picture).result() for picture in pictures]
    many = Finisher(QUALITY, CPU, num_threads=8)
    together = [begin(many, picture) for picture in reversed(pictures)]
    assert [each.result() for each in reversed(together)] == alone
    assert len(set(alone)) == len(alone)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_picture_that_is_not_finite_has_no_bytes(value: float) -> None:
    picture = torch.zeros(3, 2 * ROWS, WIDTH)
    picture[1, ROWS + 3, 5] = value
    assert begin(Finisher(QUALITY, CPU), picture).result() is None


def test_half_precision_is_finished_in_whole() -> None:
    picture = torch.rand(3, 70, 40, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    finisher = Finisher(QUALITY, CPU)
    assert begin(finisher, picture).result() == begin(finisher, picture.float()).result()


def test_memory_that_is_used_again_mixes_no_pictures() -> None:
    finisher = Finisher(QUALITY, CPU, num_threads=1)
    sizes = [(20 + seed % 5 * 30, 80 - seed % 7 * 10) for seed in range(5 * MAX_AHEAD)]
    pictures = [torch.from_numpy(noise(*size, seed)).permute(2, 0, 1) / 255 for seed, size in enumerate(sizes)]
    begun = [begin(finisher, picture) for picture in pictures]
    expected = [encode_jpeg(rounded(picture), QUALITY) for picture in pictures]
    assert [each.result() for each in begun] == expected


def test_a_square_may_be_overwritten_once_it_was_given() -> None:
    finisher, picture = Finisher(QUALITY, CPU, num_threads=1), torch.full((3, 64, 64), 0.25)
    expected = encode_jpeg(rounded(picture), QUALITY)
    begun = [begin(finisher, picture) for _ in range(20)]
    picture.fill_(1)
    assert {each.result() for each in begun} == {expected}


@pytest.mark.parametrize("size", [(1, 1), (17, 255), (31, 300)])
def test_without_a_quality_a_picture_loses_nothing(size: tuple[int, int]) -> None:
    picture = torch.from_numpy(noise(*size)).permute(2, 0, 1) / 255
    image = begin(Finisher(None, CPU), picture).result()
    assert image is not None
    with Image.open(io.BytesIO(image)) as opened:
        assert opened.format == "PNG"
        assert np.array_equal(np.asarray(opened), rounded(picture))
    assert image == encode_png(noise(*size))


@pytest.mark.parametrize("size", [(1, 1), (17, 255), (256, 256), (31, 300)])
def test_four_bytes_a_pixel_give_the_jpeg_of_three(size: tuple[int, int]) -> None:
    pixels = noise(*size)
    padded = np.dstack([pixels, noise(*size, seed=1)[..., :1]])
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, subsampling=0 if max(size) < 256 else 2)
    assert encode_jpeg(pixels, QUALITY) == encode_jpeg(padded, QUALITY) == buffer.getvalue()
    assert encode_jpeg(pixels[::-1], QUALITY) == encode_jpeg(np.ascontiguousarray(padded[::-1]), QUALITY)


def test_the_bytes_of_a_picture_never_change_between_versions() -> None:
    digests = [hashlib.sha256(encode_jpeg(noise(edge, 40), QUALITY)).hexdigest()[:32] for edge in (40, 300)]
    assert digests == ["3264d36360a487606351bb5c7fb7fbdc", "79cca519f90ad718243e20c7604e0070"]


@pytest.mark.parametrize(("edge", "sampling"), [(64, "444"), (256, "420")])
def test_another_binding_of_the_encoder_gives_the_same_bytes(edge: int, sampling: str) -> None:
    # From 96 on it works with the exact transform that Pillow always has; below, it gives away 0.2 to 0.7 dB.
    pixels = noise(edge, edge)
    assert encode_jpeg(pixels, 96) == simplejpeg.encode_jpeg(pixels, quality=96, colorsubsampling=sampling)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_bytes_of_the_cpu() -> None:
    device = torch.device("cuda")
    pictures = [torch.rand(3, 300, 200, generator=torch.Generator().manual_seed(seed)) for seed in range(16)]
    on_cpu, on_gpu = Finisher(QUALITY, CPU), Finisher(QUALITY, device)
    begun = [begin(on_gpu, picture.to(device)) for picture in pictures]
    assert [each.result() for each in begun] == [begin(on_cpu, picture).result() for picture in pictures]
    assert begin(on_gpu, torch.full((3, 8, 8), float("nan"), device=device)).result() is None
