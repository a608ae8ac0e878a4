"""A checkpoint of transformers as a classifier: the one door to its module, preprocessing, features and gradients."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from actors.classifier.classes import match_classes
from actors.images.preprocessing import Pixels, Preprocessing
from actors.models.device import precision
from actors.models.files import resolve_model
from actors.models.loading import load_image_processor, load_weights
from actors.models.untyped import Model
from engine.errors import ModelError
from engine.runfile.fields import ModelConfig
from engine.sample import ImageBytes


class Network:
    """Hold a loaded checkpoint: `module` gives logits, `preprocessing` makes its inputs.

    `columns` are the indices of the run's classes among the model's, in the run's order.
    """

    def __init__(self, config: ModelConfig, classes: Sequence[str], device: torch.device, *, offline: bool) -> None:
        from transformers import AutoModelForImageClassification

        files = resolve_model(config, offline)
        self.config, self.device = config, device
        self.module: Model = load_weights(AutoModelForImageClassification, files, device)
        self.preprocessing = Preprocessing(load_image_processor(files))
        names = {int(index): name for index, name in self.module.config.id2label.items()}
        self.columns = match_classes(names, classes, config.name)

    def read(self, image: ImageBytes) -> Pixels:
        """Return the pixels (channels, height, width) that the model sees of an encoded image."""
        return self.preprocessing.pixels(image)

    def inputs(self, pixels: Sequence[Pixels]) -> Tensor:
        """Return the model's input (n, channels, height, width) in its precision; gradients may be asked of it."""
        return self.preprocessing.inputs(np.stack(pixels), self.device).to(self.module.dtype)

    def logits(self, inputs: Tensor) -> Tensor:
        """Return logits (n, num_classes) in the order of the run's classes; they can be differentiated."""
        with precision(self.config, self.device):
            return torch.as_tensor(self.module(inputs).logits)[:, self.columns].float()

    def features(self, inputs: Tensor) -> Tensor:
        """Return what the last linear layer gets (n, dim); raises ModelError for a model that ends in no such layer."""
        found: list[Tensor] = []
        hook = self._head().register_forward_pre_hook(lambda _, got: found.append(got[0]))
        try:
            self.logits(inputs)
        finally:
            hook.remove()
        return found[-1].flatten(1).float()

    def __call__(self, images: Sequence[Any]) -> NDArray[np.float32]:
        """Return probabilities (n, num_classes) over the run's classes; raises ModelError for NaN."""
        with torch.inference_mode():
            probabilities = self.logits(self.inputs(images)).softmax(dim=1).cpu().numpy()
        if not np.isfinite(probabilities).all():
            raise ModelError(f"model {self.config.name!r} answers with NaN: try dtype float32")
        return np.asarray(probabilities, np.float32)

    def _head(self) -> nn.Linear:
        num_classes = len(self.module.config.id2label)
        if heads := linear_layers(self.module, num_classes):
            return heads[-1]
        kind = type(self.module).__name__
        raise ModelError(f"model {self.config.name!r} is a {kind}, which has no linear layer of {num_classes} rows")


def linear_layers(module: nn.Module, num_rows: int) -> list[nn.Linear]:
    """Return the linear layers with so many rows, in the order of the module."""
    return [part for part in module.modules() if isinstance(part, nn.Linear) and part.out_features == num_rows]
