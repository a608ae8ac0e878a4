"""A checkpoint of transformers as a classifier: the one door to its module, preprocessing, features and gradients."""

from collections.abc import Hashable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.classifier.classes import match_classes
from actors.classifier.heads import ALWAYS_ZERO, find_heads, recorded_inputs, select_rows
from actors.classifier.prototypes import load_prototypes
from actors.classifier.settings import read_settings
from actors.images.preprocessing import Pixels, Preprocessing, same_size
from actors.models.device import precision
from actors.models.files import read_json, resolve_model
from actors.models.loading import load_image_processor, load_weights, model_errors
from actors.models.untyped import Model
from engine.errors import ModelError
from engine.runfile.fields import ModelConfig
from engine.sample import ImageBytes

# Of the images that most classifiers see, in pixels.
USUAL_EDGE = 224


class Network:
    """Hold a loaded checkpoint: `module` gives logits, `preprocessing` makes its inputs.

    `columns` are the indices of the run's classes among the model's outputs, in the run's order. A model with one
    output, a sigmoid, gets a second one that is always 0: their softmax is the sigmoid. A head of prototypes beside the
    checkpoint takes the place of its own.
    """

    def __init__(self, config: ModelConfig, classes: Sequence[str], device: torch.device, *, offline: bool) -> None:
        from transformers import AutoModelForImageClassification

        files = resolve_model(config, offline)
        settings = read_settings(config.name, partial(read_json, files.folder))
        self.config, self.device = config, device
        with model_errors(config.name, "an image classifier"):
            self.preprocessing = Preprocessing(load_image_processor(files), settings.num_channels)
        # Whose pixels were not compared with another processor's reads alone.
        self.reading: Hashable = self.preprocessing.framing or object()
        self.module: Model = load_weights(AutoModelForImageClassification, files, device)
        names = settings.names or [self.module.config.id2label[index] for index in range(self.module.config.num_labels)]
        self.columns = match_classes(names, classes, config.name)
        if len(names) == 1:
            select_rows(self.module, self.heads, [ALWAYS_ZERO, 0])
        if (prototypes := load_prototypes(files.folder)) is not None:
            (head,) = self.heads
            self.module.set_submodule(head, prototypes.to(device, self.module.dtype))

    @cached_property
    def heads(self) -> list[str]:
        """Return the names of the layers whose outputs are the logits; raises ModelError where there is none."""
        with precision(self.config, self.device):
            heads = find_heads(self.module, self.trial_inputs())
        if heads:
            return heads
        raise ModelError(
            f"model {self.config.name!r} is a {type(self.module).__name__}, which ends in no linear layer or "
            "convolution with a row for each class, that could be cut or trained apart: give the run all classes of "
            "the model, in its order, and set reinforce.trained to all"
        )

    def trial_inputs(self) -> Tensor:
        """Return the model's inputs for two images of noise, of the size that it is made for."""
        config = getattr(self.module.config, "vision_config", self.module.config)
        size = getattr(config, "image_size", None) or USUAL_EDGE
        height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
        return self.preprocessing.trial_inputs(2, (height, width), self.device).to(self.module.dtype)

    def read(self, image: ImageBytes) -> Pixels:
        """Return the pixels (channels, height, width) that the model sees of an encoded image."""
        return self.preprocessing.pixels(image)

    def inputs(self, pixels: Sequence[Pixels]) -> Tensor:
        """Return the model's input (n, channels, height, width) in its precision; gradients may be asked of it."""
        return self.preprocessing.inputs(np.stack(same_size(pixels)), self.device).to(self.module.dtype)

    def logits(self, inputs: Tensor) -> Tensor:
        """Return logits (n, num_classes) in the order of the run's classes; they can be differentiated."""
        with precision(self.config, self.device):
            return torch.as_tensor(self.module(inputs).logits)[:, self.columns].float()

    def features(self, inputs: Tensor) -> Tensor:
        """Return what the head gets (n, dim), of two heads side by side; raises ModelError where there is none."""
        layers = [self.module.get_submodule(name) for name in self.heads]
        with recorded_inputs(layers) as found:
            self.logits(inputs)
        return torch.cat([found[layer].flatten(1) for layer in layers], 1).float()

    def __call__(self, images: Sequence[Any]) -> NDArray[np.float32]:
        """Return probabilities (n, num_classes) over the run's classes; raises ModelError for NaN."""
        with torch.inference_mode():
            probabilities = self.logits(self.inputs(images)).softmax(dim=1).cpu().numpy()
        if not np.isfinite(probabilities).all():
            raise ModelError(f"model {self.config.name!r} answers with NaN: try dtype float32")
        return np.asarray(probabilities, np.float32)
