"""The classifier under test: a checkpoint of transformers, or any Python function, asked for probabilities."""

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from actors.images.codec import decode_rgb
from actors.images.preprocessing import Preprocessing
from actors.models.batching import padded_batches, prepared_batches
from actors.models.device import num_readers, precision, resolve_device, set_up_process
from actors.models.loading import load_image_processor, load_weights, resolve_model
from actors.plugins import import_target
from engine.errors import ModelError
from engine.runfile.fields import ModelConfig
from engine.runfile.probe import ProbeConfig
from engine.sample import ImageBytes

Probabilities = NDArray[np.float32]

# Rows of a function's answer may miss 1 by this much: some round, or work in half precision.
SUM_TOLERANCE = 1e-2
NAMES_SHOWN = 5


class Classifier:
    """Return class probabilities for encoded images, in the order of the run's classes.

    A checkpoint's classes are matched by name; one with more classes than the run has is asked about the run's alone
    (softmax over their logits, as ImageNet-R does for ImageNet models). A function gets RGB images of PIL, returns an
    array (num_images, num_classes) of probabilities in the order of the run's classes. Raises ModelError.
    """

    def __init__(self, config: ProbeConfig, classes: Sequence[str], offline: bool = False) -> None:
        set_up_process(config.placement.num_threads)
        self.classes = tuple(classes)
        self.batch_size = config.batch_size
        self.digest = classifier_digest(config, offline)
        self._num_readers = num_readers(config.placement)
        self._predict: _Checkpoint | _Function
        if config.model is not None:
            device = resolve_device(config.placement)
            self._predict = _Checkpoint(config.model, self.classes, device, offline)
        else:
            assert config.callable is not None  # the schema asks for exactly one of the two
            self._predict = _Function(config.callable, self.classes)

    def predict(self, images: Sequence[ImageBytes]) -> Probabilities:
        """Return probabilities (num_images, num_classes) for encoded images; raises UnreadableImageError."""
        rows = [np.empty((0, len(self.classes)), np.float32)]
        for batch in prepared_batches(images, self.batch_size, self._predict.read, self._num_readers):
            # Filled up when it is read: the last image is decoded once.
            rows += [self._predict(filled)[:count] for filled, count in padded_batches(batch, self.batch_size)]
        return np.concatenate(rows)


def classifier_digest(config: ProbeConfig, offline: bool = False) -> str:
    """Return what names a classifier's predictions: a hash over its files, or over its function's module."""
    if config.model is not None:
        return resolve_model(config.model, offline).digest
    assert config.callable is not None
    function = import_function(config.callable)
    source = inspect.getsourcefile(inspect.unwrap(function)) if inspect.isroutine(function) else None
    digest = hashlib.sha256(config.callable.encode())
    if source is not None:
        with open(source, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()[:16]


def import_function(target: str) -> Callable[[list[Image.Image]], object]:
    """Return the function that `package.module:function` names; raises ModelError."""
    return import_target(
        target, "probe.callable", "function", "install it, or put the folder that holds it on PYTHONPATH"
    )


def match_classes(names: Mapping[int, str], classes: Sequence[str], model: str) -> list[int]:
    """Return for each class of the run its index in the model.

    Names match without regard to case, spaces, hyphens and underscores, and each of several that a comma separates
    counts ("tench, Tinca tinca"). A model that names nothing (LABEL_0, ...) is taken by index where the counts agree.
    Raises ModelError naming the classes that are missing.
    """
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names.values()):
        if len(names) != len(classes):
            raise ModelError(
                f"model {model!r} has {len(names)} classes without names, the run has {len(classes)}: "
                "set id2label in the model's config.json"
            )
        return list(range(len(classes)))
    known: dict[str, set[int]] = {}
    synonyms: dict[str, set[int]] = {}
    for index, name in names.items():
        known.setdefault(_plain(name), set()).add(index)
        for part in name.split(","):
            synonyms.setdefault(_plain(part), set()).add(index)
    found = {name: known.get(_plain(name)) or synonyms.get(_plain(name), set()) for name in classes}
    if missing := [name for name, indexes in found.items() if not indexes]:
        raise ModelError(
            f"model {model!r} does not know {_some(missing)}, it knows {_some(list(names.values()))}: "
            "name the run's classes as the model does, or set id2label in its config.json"
        )
    if unclear := [name for name, indexes in found.items() if len(indexes) > 1]:
        raise ModelError(f"model {model!r} has more than one class of the name {_some(unclear)}: set id2label apart")
    return [min(found[name]) for name in classes]


class _Checkpoint:
    def __init__(self, config: ModelConfig, classes: Sequence[str], device: torch.device, offline: bool) -> None:
        from transformers import AutoModelForImageClassification

        files = resolve_model(config, offline)
        self.config = config
        self.device = device
        self.model = load_weights(AutoModelForImageClassification, files, device)
        self.preprocessing = Preprocessing(load_image_processor(files))
        names = {int(index): name for index, name in self.model.config.id2label.items()}
        self.columns = match_classes(names, classes, config.name)

    def read(self, image: ImageBytes) -> Any:  # noqa: ANN401 whatever a call takes
        return self.preprocessing.pixels(image)

    def __call__(self, pixels: Sequence[Any]) -> Probabilities:
        inputs = self.preprocessing.inputs(np.stack(pixels), self.device)
        with torch.inference_mode(), precision(self.config, self.device):
            logits = self.model(inputs.to(self.model.dtype)).logits
        probabilities = logits[:, self.columns].float().softmax(dim=1).cpu().numpy()
        if not np.isfinite(probabilities).all():
            raise ModelError(f"model {self.config.name!r} answers with NaN: try dtype float32")
        return np.asarray(probabilities, np.float32)


class _Function:
    def __init__(self, target: str, classes: Sequence[str]) -> None:
        self.target = target
        self.num_classes = len(classes)
        self.function = import_function(target)

    def read(self, image: ImageBytes) -> Any:  # noqa: ANN401 whatever a call takes
        return decode_rgb(image)

    def __call__(self, images: list[Any]) -> Probabilities:
        answer = np.asarray(self.function(images), np.float32)
        wanted = (len(images), self.num_classes)
        if answer.shape != wanted:
            self._refuse(f"returned an array of shape {answer.shape}, wanted {wanted}: images by classes")
        if not np.isfinite(answer).all():
            self._refuse("returned NaN or infinite values, wanted probabilities")
        if answer.min() < 0 or abs(answer.sum(axis=1) - 1).max() > SUM_TOLERANCE:
            seen = f"from {answer.min():g} to {answer.max():g}, rows that sum to {answer.sum(axis=1).max():g}"
            self._refuse(f"returned values {seen}, wanted probabilities that sum to 1: apply softmax to logits")
        return answer

    def _refuse(self, what: str) -> None:
        raise ModelError(f"probe.callable {self.target!r} {what}")


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN} more"
