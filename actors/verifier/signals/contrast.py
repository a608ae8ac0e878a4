"""The signal `contrast`: blank and black images."""

import numpy as np
from PIL import Image

from actors.verifier.signals.signal import Scores, Signal
from engine.sample import Sample


class Contrast(Signal):
    """Score `contrast`: the standard deviation of the grey values in [0, 1]."""

    def prepare(self, image: Image.Image) -> float:
        """Return the contrast of an image."""
        return contrast(image)

    def source_scores(self, source: Sample, seen: float) -> Scores:
        """Return the contrast of a source."""
        return {"contrast": seen}

    def edit_scores(self, edit: Sample, seen: float, source_seen: float, placebo_seen: float | None) -> Scores:
        """Return the contrast of an edit."""
        return {"contrast": seen}


def contrast(image: Image.Image) -> float:
    """Return the standard deviation of an image's grey values in [0, 1]: 0 where it is blank or black."""
    return float(np.asarray(image.convert("L"), dtype=np.float64).std() / 255)
