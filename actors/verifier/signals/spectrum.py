"""The signal `spectrum`: traces of a decoder's upsampling, and repetition, in the edit and not in its placebo."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from actors.verifier.signals.signal import Scores, Signal
from engine.runfile.signals import SpectrumSignal
from engine.sample import Sample

Floats = NDArray[np.float64]
# Frequencies, in cycles a pixel, at which a decoder that doubles edges leaves its grid; JPEG has its own at 1/8.
STRIDES = (2, 4)
# Cells around a frequency that are no part of its neighbourhood, and those that are.
PEAK, NEIGHBOURS = 1, 4
MIN_EDGE = 4 * NEIGHBOURS
# Shorter shifts are the object itself, longer ones leave too little to compare; as shares of the edge.
SHIFTS = (0.12, 0.4)
TINY = 1e-12
# Of grey values: a step that nobody sees.
SMALL_STEP = 1e-4


class Traces(NamedTuple):
    """What is seen of an image: how high its grid stands out, its resampling, and its repetition."""

    grid: float
    resampling: float
    repetition: float


class Spectrum(Signal):
    """Score how little an edit has of a generator's traces that its placebo has not: 0 is none, below 0 some.

    `grid` is minus the rise of peaks at a decoder's stride over the frequencies around them, in decades (Frank et al.
    2020). `resampling` is minus the rise of how unlike every second step between pixels is to the others, as where each
    pixel was repeated. `repetition` is minus the rise of the largest peak of the autocorrelation, in [0, 1].
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def prepare(self, image: Image.Image) -> Traces:
        """Return the traces of an image."""
        return traces(np.asarray(image.convert("L"), np.float64) / 255)

    def edit_scores(self, edit: Sample, seen: Traces, source_seen: Traces, placebo_seen: Traces | None) -> Scores:
        """Return the scores of an edit beside its placebo; of a placebo beside its source."""
        other = source_seen if placebo_seen is None else placebo_seen
        return {
            f"{self._name}.{trace}": float(np.minimum(0.0, others - own))
            for trace, own, others in zip(SpectrumSignal.scores, seen, other, strict=True)
        }


def traces(grey: Floats) -> Traces:
    """Return the traces of an image of grey values in [0, 1], (height, width); NaN where it is too small for them."""
    if min(grey.shape) < MIN_EDGE:
        return Traces(math.nan, math.nan, math.nan)
    return Traces(grid=_grid(grey - grey.mean()), resampling=_resampling(grey), repetition=_repetition(grey))


def _resampling(grey: Floats) -> float:
    """Return how unlike the steps between pixels 1 and 2, 3 and 4 ... are to those between, in decades, by axis."""
    steps = [np.abs(np.diff(grey, 1, axis)).mean(1 - axis) + SMALL_STEP for axis in (0, 1)]
    return max(abs(float(np.log10(each[::2].mean() / each[1::2].mean()))) for each in steps)


def _grid(centred: Floats) -> float:
    """Return by how much the spectrum at a decoder's strides is above what is around it, in decades; the largest."""
    height, width = centred.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    log_power = np.log10(np.abs(np.fft.fft2(centred * window)) ** 2 + TINY)
    heights = [0.0]
    for stride in STRIDES:
        for row, column in ((height // stride, 0), (0, width // stride), (height // stride, width // stride)):
            around = np.roll(log_power, (height // 2 - row, width // 2 - column), (0, 1))
            part = around[_near(height, NEIGHBOURS), _near(width, NEIGHBOURS)].copy()
            middle = _near(part.shape[0], PEAK), _near(part.shape[1], PEAK)
            peak = float(part[middle].max())
            part[middle] = -np.inf
            heights.append(peak - float(part.max()))
    return max(heights)


def _near(edge: int, distance: int) -> slice:
    """Return the places around the middle of an axis."""
    return slice(max(0, edge // 2 - distance), edge // 2 + distance + 1)


def _repetition(grey: Floats) -> float:
    """Return the largest peak of the autocorrelation away from its centre, in [0, 1]; 0 where there is none."""
    centred = grey - grey.mean()
    height, width = centred.shape
    ones = np.fft.rfft2(np.ones_like(centred), (2 * height, 2 * width))
    spectrum = np.fft.rfft2(centred, (2 * height, 2 * width))
    shape = 2 * height, 2 * width
    correlation = np.fft.irfft2(np.abs(spectrum) ** 2, shape)
    overlap = np.fft.irfft2(np.abs(ones) ** 2, shape)
    variance = correlation[0, 0] / overlap[0, 0]
    if variance <= TINY:
        return 0.0
    values = np.where(overlap > 0.5, correlation / np.maximum(overlap, 1.0) / variance, 0.0)
    shifts = [np.minimum(np.arange(edge), edge - np.arange(edge)) for edge in shape]
    far = np.maximum(shifts[0][:, None] / height, shifts[1][None, :] / width)
    neighbours = [np.roll(values, shift, (0, 1)) for shift in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    is_peak = (values >= np.maximum.reduce(neighbours)) & (far >= SHIFTS[0]) & (far <= SHIFTS[1])
    return float(np.clip(values[is_peak].max(initial=0.0), 0.0, 1.0))
