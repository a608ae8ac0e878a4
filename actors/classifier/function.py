"""A Python function as a classifier: a black box, which is asked for probabilities and nothing else."""

import inspect
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from actors.images.codec import decode_rgb
from actors.plugins import import_target
from engine.errors import ModelError
from engine.sample import ImageBytes
from engine.wording import name_some

# Rows of a function's answer may miss 1 by this much: some round, or work in half precision.
SUM_TOLERANCE = 1e-2


class Function:
    """Ask a function for probabilities (num_images, num_classes), and check what it returns.

    It gets the images as a list of RGB images of PIL, and as `classes` the names of the run's classes where it has an
    argument of that name; its columns are these classes, in this order.
    """

    reading: Hashable = "RGB images of PIL"

    def __init__(self, target: str, classes: Sequence[str]) -> None:
        self.target = target
        self.classes = list(classes)
        function = import_function(target)
        self.function = partial(function, classes=self.classes) if _takes_classes(function) else function

    def read(self, image: ImageBytes) -> Image.Image:
        """Return the RGB image that the function gets."""
        return decode_rgb(image)

    def __call__(self, images: Sequence[Any]) -> NDArray[np.float32]:
        """Return what the function answers; raises ModelError where that is not probabilities."""
        answer = np.asarray(self.function(list(images)), np.float32)
        wanted = (len(images), len(self.classes))
        if answer.shape != wanted:
            order = f"images by classes, in the order {name_some(self.classes)}"
            self._refuse(f"returned an array of shape {answer.shape}, wanted {wanted}: {order}")
        if not np.isfinite(answer).all():
            self._refuse("returned NaN or infinite values, wanted probabilities")
        if answer.min() < 0 or abs(answer.sum(axis=1) - 1).max() > SUM_TOLERANCE:
            seen = f"from {answer.min():g} to {answer.max():g}, rows that sum to {answer.sum(axis=1).max():g}"
            self._refuse(f"returned values {seen}, wanted probabilities that sum to 1: apply softmax to logits")
        return answer

    def _refuse(self, what: str) -> None:
        raise ModelError(f"probe.callable {self.target!r} {what}")


def _takes_classes(function: Callable[..., object]) -> bool:
    try:
        return "classes" in inspect.signature(function).parameters
    except ValueError:  # a compiled one says nothing of its arguments
        return False


def import_function(target: str) -> Callable[..., object]:
    """Return the function that `package.module:function` names; raises ModelError."""
    return import_target(
        target, "probe.callable", "function", "install it, or put the folder that holds it on PYTHONPATH"
    )
