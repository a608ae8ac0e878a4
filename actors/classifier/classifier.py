"""The classifier under test: a checkpoint of transformers, or any Python function, asked for probabilities."""

import hashlib
import inspect
import os
import re
import sys
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.classifier.function import Function, import_function
from actors.classifier.network import Network
from actors.models.batching import padded_batches, prepared_batches
from actors.models.device import num_readers, resolve_device, set_up_process
from actors.models.files import resolve_model
from engine.errors import ModelError
from engine.runfile.probe import ProbeConfig
from engine.sample import ImageBytes

Probabilities = NDArray[np.float32]
# transformers numbers the outputs of a model without names so.
UNNAMED = re.compile(r"LABEL_\d+")


class Asked(Protocol):
    """Answer a batch of images. Where `reading` is equal `read` gives the same."""

    reading: Hashable

    def read(self, image: ImageBytes) -> Any:  # noqa: ANN401 whatever a call takes
        """Return what a call takes of an encoded image; several threads call it at once."""
        ...

    def __call__(self, images: Sequence[Any]) -> Probabilities:
        """Return probabilities (num_images, num_classes) for images as `read` gives them."""
        ...


class Classifier:
    """Return class probabilities for encoded images, in the order of the run's classes.

    A checkpoint's classes are matched by name; one with more classes than the run has is asked about the run's alone
    (softmax over their logits, as ImageNet-R does for ImageNet models). Where it is not `restricted`, its `others`
    follow behind the run's, and the softmax is over all. A function gets RGB images of PIL, returns an array
    (num_images, num_classes) of probabilities in the order of the run's classes. Raises ModelError.

    `num_outputs` are the classes of the model; where it `has_names` they are matched, else taken in their order.
    """

    def __init__(
        self, config: ProbeConfig, classes: Sequence[str], offline: bool = False, *, restricted: bool = True
    ) -> None:
        set_up_process(config.placement.num_threads)
        self.classes, self.others = tuple(classes), tuple[str, ...]()
        self.num_outputs, self.has_names = len(self.classes), False
        self.batch_size = config.batch_size
        self._name = f"probe.callable {config.callable!r}" if config.callable else str(config.model)
        self._num_readers = num_readers(config.placement)
        self._asked: Asked
        if config.model is not None:
            device = resolve_device(config.placement)
            network = Network(config.model, self.classes, device, offline=offline)
            labels = {int(index): str(name) for index, name in network.module.config.id2label.items()}
            self.num_outputs = max(len(labels), len(self.classes))  # a sigmoid has one
            self.has_names = not all(UNNAMED.fullmatch(name) for name in labels.values())
            if not restricted and len(labels) > 1:
                columns = [index for index in sorted(labels) if index not in network.columns]
                network.columns = [*network.columns, *columns]
                self.others = tuple(labels[index] for index in columns)
            self._asked = network
        else:
            assert config.callable is not None  # the schema asks for exactly one of the two
            self._asked = Function(config.callable, self.classes)

    @property
    def network(self) -> Network:
        """Return what is behind the answers: module, features, gradients. Raises ModelError, as a function has none."""
        if isinstance(self._asked, Network):
            return self._asked
        raise ModelError(
            f"{self._name} is a black box: it has no layers, features or gradients; name a checkpoint with probe.model "
            "for what needs them"
        )

    def predict(self, images: Sequence[ImageBytes]) -> Probabilities:
        """Return probabilities (num_images, num_classes) for encoded images; raises UnreadableImageError.

        Columns are the run's classes, then the `others`.
        """
        (found,) = predict_all([self], images)
        return found

    def answer(self, read: Sequence[Any]) -> Probabilities:
        """Return probabilities for at most `batch_size` images that `read` gave."""
        # Filled up when it is read: the last image is decoded once.
        ((filled, count),) = padded_batches(read, self.batch_size)
        return self._asked(filled)[:count]

    def read(self, images: Sequence[ImageBytes]) -> Iterator[list[Any]]:
        """Yield decoded images, `batch_size` at a time, for all classifiers that have this one's `reading`."""
        return prepared_batches(images, self.batch_size, self._asked.read, self._num_readers)

    @property
    def reading(self) -> Hashable:
        """Return what is equal for classifiers that get the same of an image."""
        return self._asked.reading, self.batch_size


def predict_all(classifiers: Sequence[Classifier], images: Sequence[ImageBytes]) -> list[Probabilities]:
    """Return each classifier's probabilities, as `predict` does; those that read images alike decode them once."""
    rows = [[np.empty((0, len(each.classes) + len(each.others)), np.float32)] for each in classifiers]
    alike: dict[Hashable, list[int]] = {}
    for place, each in enumerate(classifiers):
        alike.setdefault(each.reading, []).append(place)
    for places in alike.values():
        for batch in classifiers[places[0]].read(images):
            for place in places:
                rows[place].append(classifiers[place].answer(batch))
    return [np.concatenate(each) for each in rows]


def classifier_digest(config: ProbeConfig, offline: bool = False) -> str:
    """Return what names a classifier's predictions: a hash over its files; of a function over its source file,
    `files` and `version`. Raises ModelError.
    """
    if config.model is not None:
        return resolve_model(config.model, offline).digest
    assert config.callable is not None
    function = inspect.unwrap(import_function(config.callable))
    # An object with __call__ has no source file of its own.
    has_source = inspect.isfunction(function) or inspect.ismethod(function)
    source = inspect.getsourcefile(function if has_source else sys.modules[config.callable.partition(":")[0]])
    digest = hashlib.sha256(config.callable.encode())
    digest.update(Path(source).read_bytes() if source else b"")
    for path in _files_below(config.files):
        try:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise ModelError(f"probe.files: cannot read {path}: {error.strerror}: name files that are there") from error
    digest.update(b"" if config.version is None else f"version {config.version}".encode())
    return digest.hexdigest()[:16]


def _files_below(paths: Sequence[str]) -> Iterator[str]:
    """Yield each file, and of a folder every file below it."""
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        yield from sorted(str(found) for found in Path(path).rglob("*") if found.is_file())
