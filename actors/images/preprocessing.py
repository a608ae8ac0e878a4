"""A classifier's inputs from an encoded image: the same in fine-tuning, scoring, probe and evaluation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from actors.images.codec import decode_whole
from actors.images.framing import Framing, framings
from actors.models.device import image_layout, upload
from actors.models.untyped import Processor
from engine.errors import ModelError
from engine.sample import ImageBytes

Pixels = NDArray[np.uint8] | NDArray[np.float32]

# An upright and a wide image of odd sides: their outputs tell how a processor resizes and crops.
TRIAL_SIZES = ((431, 331), (331, 431))
TOLERANCE = 1e-4


class Preprocessing:
    """Split a model's image processor in two: pixels on the CPU, kept as uint8, and arithmetic on the device.

    A processor that only resizes and crops is replaced by the `Framing` that gives the same for two trial images. One
    that cannot be split (EfficientNet's) is called for each image, and its pixels are float32.
    """

    def __init__(self, processor: Processor, num_channels: int = 3) -> None:
        self.processor = processor
        self._is_grey = num_channels == 1
        self._keep_whole()
        self.framing: Framing | None = None
        if getattr(processor, "do_rescale", False):
            trials = [_noise(*size) for size in TRIAL_SIZES]
            wanted = [self._processed(trial) for trial in trials]
            self._split()
            found = [self._processed(trial) for trial in trials]
            if all(map(self._makes, found, wanted)):
                self.framing = next(
                    (framing for framing in framings(processor) if _gives(framing, trials, found)), None
                )
            else:
                self._keep_whole()

    @property
    def keeps_uint8(self) -> bool:
        """Return whether `pixels` are uint8."""
        return bool(self._options)

    def pixels(self, image: ImageBytes) -> Pixels:
        """Return the resized and cropped pixels (channels, height, width) of an encoded image.

        They may be a view of a larger array. Raises UnreadableImageError.
        """
        if self.framing is not None:
            return self.framing.of_encoded(image).transpose(2, 0, 1)
        return self._processed(decode_whole(image))

    def trial_inputs(self, count: int, size: tuple[int, int], device: torch.device) -> Tensor:
        """Return the model's inputs for so many images of noise, of this height and width."""
        return self.inputs(np.stack([self._processed(_noise(*size, seed)) for seed in range(count)]), device)

    def inputs(self, pixels: NDArray[Any], device: torch.device) -> Tensor:
        """Return the model's inputs (n, channels, height, width), float32 on the device."""
        tensor = torch.from_numpy(pixels).to(device, non_blocking=True)
        # Bytes of another layout than the device's are put in order there, where it costs least.
        tensor = tensor.to(torch.float32, memory_format=image_layout(device))
        return (tensor * self._scale - upload(self._mean, device)) / upload(self._std, device)

    def _processed(self, image: Image.Image) -> Pixels:
        # timm's processors return tensors alone.
        shown = image.convert("L") if self._is_grey else image
        output = self.processor(images=shown, return_tensors="pt", **self._options)
        array = np.asarray(output["pixel_values"][0])
        return array.astype(np.uint8) if self._options else array.astype(np.float32)

    def _keep_whole(self) -> None:
        self._options: dict[str, bool] = {}
        self._scale, self._mean, self._std = 1.0, torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)

    def _split(self) -> None:
        self._options = {"do_rescale": False, "do_normalize": False}
        self._scale = float(self.processor.rescale_factor)
        if getattr(self.processor, "do_normalize", False):
            self._mean = torch.tensor(self.processor.image_mean).view(1, -1, 1, 1)
            self._std = torch.tensor(self.processor.image_std).view(1, -1, 1, 1)

    def _makes(self, pixels: Pixels, wanted: Pixels) -> bool:
        found = self.inputs(pixels[None], torch.device("cpu"))[0].numpy()
        return found.shape == wanted.shape and np.allclose(found, wanted, rtol=0, atol=TOLERANCE)


def _gives(framing: Framing, images: list[Image.Image], wanted: list[Pixels]) -> bool:
    found = [framing.of_pixels(np.asarray(image)).transpose(2, 0, 1) for image in images]
    return all(map(np.array_equal, found, wanted))


def same_size(pixels: Sequence[Pixels]) -> Sequence[Pixels]:
    """Return pixels that can be one batch; raises ModelError where their sizes differ."""
    if len(shapes := sorted({each.shape for each in pixels})) > 1:
        raise ModelError(
            f"the image processor gives images of different sizes, such as {shapes[0]} and {shapes[-1]}: set "
            "do_resize: true and a size in the model's preprocessor_config.json, or give images of one size"
        )
    return pixels


def _noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))
