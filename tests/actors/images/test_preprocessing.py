"""Preprocessing: an image processor's own pixels without calling it, and close to them at a fraction of the work."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image
from skimage import data

from actors.images.codec import UnreadableImageError, decode_rgb
from actors.images.preprocessing import Preprocessing

CPU = torch.device("cpu")
# Of photographs decoded at a fraction of their size, against the processor's own pixels; levels are of 255.
MEAN_LEVELS, PSNR = 2.5, 36.0
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")


def make(name: str, **settings: object) -> Any:  # noqa: ANN401  # transformers has no types
    """Return the image processor of this name that works on PIL images."""
    import transformers

    return getattr(transformers, f"{name}ImageProcessorPil")(**settings)


PROCESSORS: dict[str, Callable[[], Any]] = {
    "vit": lambda: make("ViT"),
    "resnet": lambda: make("ConvNext", size={"shortest_edge": 224}, crop_pct=0.875),
    "convnext": lambda: make("ConvNext", size={"shortest_edge": 384}),
    "clip": lambda: make("CLIP"),
    "deit": lambda: make("DeiT"),
    "bit": lambda: make("Bit", size={"shortest_edge": 100}, crop_size={"height": 90, "width": 60}),
    "lanczos": lambda: make("ViT", size={"height": 210, "width": 230}, resample=1),
    "small": lambda: make("ViT", size={"height": 64, "width": 64}, resample=3),
    "unnormalised": lambda: make("ViT", do_normalize=False),
    "levit": lambda: make("Levit"),
    "perceiver": lambda: make("Perceiver"),
    "mobilevit": lambda: make("MobileViT"),
    "efficientnet": lambda: make("EfficientNet"),
    "unscaled": lambda: make("ViT", do_rescale=False, do_normalize=False),
}
CALLED_FOR_EACH = {"levit", "perceiver", "mobilevit", "efficientnet", "unscaled"}


def picture(height: int, width: int) -> Image.Image:
    """Return a smooth picture with noise on it."""
    rng = np.random.default_rng([height, width])
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(coarse, np.int16) + rng.integers(-20, 20, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **settings: Any) -> bytes:  # noqa: ANN401  # Pillow's own
    output = io.BytesIO()
    image.save(output, kind, **settings)
    return output.getvalue()


def own_pixels(split: Preprocessing, image: bytes) -> Any:  # noqa: ANN401  # an array of either kind
    """Return what the processor makes of an image when it is called for it, before any arithmetic."""
    options = {"do_rescale": False, "do_normalize": False} if split.keeps_uint8 else {}
    return np.asarray(split.processor(images=decode_rgb(image), return_tensors="np", **options)["pixel_values"][0])


def whole(processor: Any, image: bytes) -> torch.Tensor:  # noqa: ANN401  # transformers has no types
    """Return what the processor makes of an image when it is asked for all of it."""
    pixels: torch.Tensor = processor(images=decode_rgb(image), return_tensors="pt")["pixel_values"]
    return pixels.float()


@pytest.fixture(params=sorted(PROCESSORS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_pixels_are_the_processors_own_to_the_bit_up_to_twice_the_size(name: str) -> None:
    split = Preprocessing(PROCESSORS[name]())
    assert (name in CALLED_FOR_EACH) == (split.framing is None)
    for height, width in ((99, 75), (64, 64), (61, 123), (90, 90)):
        image = encoded(picture(height, width), quality=95, subsampling=height % 3)
        pixels = split.pixels(image)
        assert pixels.dtype == (np.uint8 if split.keeps_uint8 else np.float32)
        assert np.array_equal(pixels, own_pixels(split, image))


def test_inputs_are_the_whole_processors(name: str) -> None:
    processor = PROCESSORS[name]()
    split = Preprocessing(processor)
    image = encoded(picture(130, 170), quality=95)
    inputs = split.inputs(np.stack([split.pixels(image)]), CPU)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(inputs, whole(processor, image), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["vit", "resnet", "convnext", "clip", "small", "lanczos"])
@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
def test_large_photographs_are_decoded_at_a_fraction_and_stay_close(name: str, photograph: str) -> None:
    split = Preprocessing(PROCESSORS[name]())
    pixels = Image.fromarray(getattr(data, photograph)())
    shorter = min(pixels.size)
    edge = 800 if name == "convnext" else 560
    sides = (edge * pixels.width // shorter, edge * pixels.height // shorter)
    image = encoded(pixels.resize(sides, Image.Resampling.LANCZOS), quality=95)
    wanted, found = own_pixels(split, image).astype(np.float64), split.pixels(image)
    difference = np.abs(found - wanted)
    assert 0 < difference.mean() < MEAN_LEVELS
    assert 10 * np.log10(255**2 / (difference**2).mean()) > PSNR


@pytest.mark.parametrize(
    ("resample", "edge", "is_exact"),
    [
        (Image.Resampling.BICUBIC, 448, False),
        (Image.Resampling.BICUBIC, 446, True),
        (Image.Resampling.BILINEAR, 448, True),
        (Image.Resampling.BILINEAR, 480, False),
        (Image.Resampling.NEAREST, 900, True),
    ],
)
def test_twice_the_size_is_where_decoding_at_a_fraction_begins(
    resample: Image.Resampling, edge: int, is_exact: bool
) -> None:
    split = Preprocessing(make("ViT", resample=int(resample)))
    image = encoded(picture(edge, edge + 70), quality=95)
    assert np.array_equal(split.pixels(image), own_pixels(split, image)) == is_exact


def test_small_models_get_pictures_that_are_decoded_at_a_fraction_only_while_much_is_left() -> None:
    split = Preprocessing(make("ViT", size={"height": 64, "width": 64}))
    for edge, is_exact in ((128, True), (398, True), (400, False)):
        image = encoded(picture(edge, edge), quality=95)
        assert np.array_equal(split.pixels(image), own_pixels(split, image)) == is_exact


@pytest.mark.parametrize("kind", ["PNG", "grey", "CMYK", "progressive", "no chroma", "trailing"])
def test_any_image_that_pillow_reads_is_read_alike(kind: str) -> None:
    split = Preprocessing(make("ViT", size={"height": 40, "width": 40}))
    shown = picture(60, 70)
    image = {
        "PNG": lambda: encoded(shown, "PNG"),
        "grey": lambda: encoded(shown.convert("L")),
        "CMYK": lambda: encoded(shown.convert("CMYK")),
        "progressive": lambda: encoded(shown, progressive=True, quality=60),
        "no chroma": lambda: encoded(shown, keep_rgb=True),
        "trailing": lambda: encoded(shown) + b"something else",
    }[kind]()
    torch.testing.assert_close(
        split.inputs(np.stack([split.pixels(image)]), CPU), whole(split.processor, image), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("edge", [40, 400])
@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_what_cannot_be_read_is_said(edge: int, damage: str) -> None:
    image = encoded(picture(edge, edge))
    broken = {"empty": b"", "text": b"no image", "cut": image[: len(image) // 2]}[damage]
    with pytest.raises(UnreadableImageError):
        Preprocessing(make("ViT", size={"height": 40, "width": 40})).pixels(broken)


@pytest.mark.parametrize("name", ["vit", "small", "efficientnet"])
@pytest.mark.parametrize("settings", [{}, {"progressive": True}])
def test_a_jpeg_with_a_hole_in_its_data_is_refused(name: str, settings: dict[str, bool]) -> None:
    image = encoded(picture(300, 400), **settings)
    hole = image[: len(image) // 2] + image[len(image) // 2 + 2000 :]
    assert decode_rgb(hole).size == (400, 300)  # Pillow says nothing
    split = Preprocessing(PROCESSORS[name]())
    split.pixels(image)
    with pytest.raises(UnreadableImageError, match="Corrupt JPEG data"):
        split.pixels(hole)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [60, 95, 100])
def test_both_decoders_give_the_same_bits(subsampling: int, quality: int) -> None:
    for height, width in ((1, 1), (7, 9), (33, 64), (120, 77)):
        image = encoded(picture(height, width), quality=quality, subsampling=subsampling)
        assert np.array_equal(simplejpeg.decode_jpeg(image), np.asarray(decode_rgb(image)))


class TensorsAlone:
    """A processor as timm's wrapper is: tensors and nothing else."""

    def __call__(self, images: Image.Image, return_tensors: str) -> dict[str, torch.Tensor]:
        if return_tensors != "pt":
            raise ValueError(f"return_tensors must be pt, but got {return_tensors}")
        pixels = np.asarray(images.resize((20, 24)), np.float32) / 255
        return {"pixel_values": torch.from_numpy(pixels.transpose(2, 0, 1))[None]}


def test_a_processor_that_returns_tensors_alone_is_called_for_each_image() -> None:
    split = Preprocessing(TensorsAlone())
    image = encoded(picture(60, 70))
    assert not split.keeps_uint8
    inputs = split.inputs(np.stack([split.pixels(image)]), CPU)
    assert torch.equal(inputs, TensorsAlone()(decode_rgb(image), "pt")["pixel_values"])


@pytest.mark.parametrize("name", ["ViT", "ConvNext", "EfficientNet"])
def test_a_model_of_one_channel_sees_the_image_in_grey(name: str) -> None:
    size = {"shortest_edge": 40} if name == "ConvNext" else {"height": 40, "width": 40}
    processor = make(name, size=size, image_mean=[0.4], image_std=[0.2], do_convert_rgb=False)
    split = Preprocessing(processor, num_channels=1)
    image = encoded(picture(60, 70))
    inputs = split.inputs(np.stack([split.pixels(image)]), CPU)
    wanted = processor(images=decode_rgb(image).convert("L"), return_tensors="pt")["pixel_values"]
    assert inputs.shape == (1, 1, 40, 40)
    torch.testing.assert_close(inputs, wanted.float(), atol=1e-5, rtol=0)
