"""A classifier's pixels against those of its own image processor in transformers, over settings and image sizes."""

import io
from typing import Any

import numpy as np
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from actors.images.codec import decode_rgb
from actors.images.preprocessing import TOLERANCE, Preprocessing

NAMES = ("ViT", "DeiT", "CLIP", "Bit", "ConvNext", "Siglip", "MobileNetV2", "EfficientNet")
# No classifier sees less; an edge of 3 or less is the same for both trial images, whatever the framing.
EDGES = st.integers(8, 300)
SIDES = st.integers(1, 500)


@st.composite
def processors(draw: st.DrawFn) -> Any:  # noqa: ANN401  # transformers has no types
    """Draw an image processor: kind, size by edge or by both sides, crop, filter, arithmetic."""
    both = st.fixed_dictionaries({"height": EDGES, "width": EDGES})
    name = draw(st.sampled_from(NAMES))
    sizes = st.fixed_dictionaries({"shortest_edge": EDGES}) if name == "ConvNext" else both
    if name in ("CLIP", "Bit", "MobileNetV2"):
        sizes = sizes | st.fixed_dictionaries({"shortest_edge": EDGES})
    triple = st.lists(st.floats(0.1, 0.9), min_size=3, max_size=3)
    settings = draw(
        st.fixed_dictionaries(
            {"size": sizes, "resample": st.integers(0, 5)},
            optional={
                "do_resize": st.booleans(),
                "do_center_crop": st.booleans(),
                "crop_size": both,
                "do_rescale": st.booleans(),
                "rescale_factor": st.sampled_from([1 / 255, 1 / 127.5, 1.0]),
                "do_normalize": st.booleans(),
                "image_mean": triple,
                "image_std": triple,
            },
        )
    )
    if name == "ConvNext":
        settings["crop_pct"] = draw(st.floats(0.5, 1.0))
    return getattr(transformers, f"{name}ImageProcessorPil")(**settings)


@given(processor=processors(), height=SIDES, width=SIDES, seed=st.integers(0, 9))
def pixels_and_inputs_are_the_processors_own(processor: Any, height: int, width: int, seed: int) -> None:  # noqa: ANN401
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    stored = io.BytesIO()
    Image.fromarray(rgb).save(stored, "PNG", compress_level=0)
    image = stored.getvalue()
    try:
        wanted = processor(images=decode_rgb(image), return_tensors="pt")["pixel_values"].float()
    except ValueError:
        # It refuses a setting or a picture: then so may we.
        return
    split = Preprocessing(processor)
    pixels = split.pixels(image)
    if split.keeps_uint8:
        plain = processor(images=decode_rgb(image), return_tensors="np", do_rescale=False, do_normalize=False)
        assert np.array_equal(pixels, plain["pixel_values"][0])
    found = split.inputs(np.stack([pixels]), torch.device("cpu"))
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=1e-5)
