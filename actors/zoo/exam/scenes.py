"""Held-out composites, the judge's predictions on them, and distances between pictures in the judge's features."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from actors.images.codec import decode_rgb, encode_jpeg
from actors.zoo.recipes.backbone import ATTRIBUTES, AttributeClassifier, attributes, seen
from actors.zoo.recipes.training.pictures import to_tensor
from engine.figures.figures import Figure
from engine.sample import ImageBytes, Sample
from engine.wardrobe.garments import CLASSES, load_garments
from engine.wardrobe.scene import BACKGROUNDS, COLOURS, LIGHTS, Scene, caption, make_scenes, render

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
CPU = torch.device("cpu")
JPEG_QUALITY = 95
NUM_RESAMPLES = 1000
CAPTION = re.compile(
    rf"a photo of an? (?P<colour>{'|'.join(COLOURS)}) (?P<class>{'|'.join(CLASSES)}) "
    rf"on (?P<background>{'|'.join(BACKGROUNDS)})(?: in (?P<light>{'|'.join(LIGHTS)}) light)?"
)


@dataclass(frozen=True)
class Exam:
    """The composites of an examination, of garments that no model was trained on, and its judge."""

    judge: AttributeClassifier
    num_scenes: int

    @cached_property
    def scenes(self) -> list[Scene]:
        """Return the composites' contents, every class x background equally often, in plain light."""
        return list(make_scenes(load_garments("heldout"), "zoo-eval", self.num_scenes))

    @cached_property
    def samples(self) -> list[Sample]:
        """Return the composites as sources of a run, stored as a run stores them, without captions."""
        return [source(scene) for scene in self.scenes]

    @cached_property
    def masks(self) -> Floats:
        """Return where the garments are, (num_scenes, 64, 64) in [0, 1]."""
        garments = load_garments("heldout")
        return np.stack([render(scene, garments)[1] for scene in self.scenes]) / 255.0

    @cached_property
    def sees(self) -> dict[str, Bools]:
        """Return for each attribute whether the judge is right about the unedited composites: the ceiling."""
        return self.right([sample.image for sample in self.samples], self.scenes)

    def right(self, images: Sequence[ImageBytes], truth: Sequence[Scene]) -> dict[str, Bools]:
        """Return for each attribute whether the judge sees in the images what the scenes say, (n,)."""
        found, true = self.found(images), attributes(truth)
        return {name: found[name] == true[name].numpy() for name in ATTRIBUTES}

    def found(self, images: Sequence[ImageBytes]) -> dict[str, NDArray[np.intp]]:
        """Return the index of the value that the judge predicts for each attribute of encoded images, (n,)."""
        return seen(self.judge, pixels(images))

    def distance(self, before: Sequence[ImageBytes], after: Sequence[ImageBytes]) -> Floats:
        """Return how different pairs of images look at each place, (n, 64, 64).

        As LPIPS (Zhang et al. 2018) without its learned weights, in the judge's features: the squared difference of
        unit-length feature vectors, summed over channels and averaged over the network's stages; 0 to 4.
        """
        maps = []
        for start in range(0, len(before), 250):
            here = slice(start, start + 250)
            pairs = zip(self.features(before[here]), self.features(after[here]), strict=True)
            stages = [(F.normalize(left) - F.normalize(right)).square().sum(1, keepdim=True) for left, right in pairs]
            large = [F.interpolate(stage, size=64, mode="bilinear") for stage in stages]
            maps.append(torch.cat(large, 1).mean(1).double().numpy())
        return np.concatenate(maps)

    def features(self, images: Sequence[ImageBytes]) -> list[torch.Tensor]:
        """Return the judge's feature maps of encoded images, one (n, channels, edge, edge) for each stage."""
        with torch.no_grad():
            states = self.judge.backbone(to_tensor(pixels(images), CPU), output_hidden_states=True).hidden_states
        return list(states[1:])

    def pooled(self, images: Sequence[ImageBytes], stage: int = -1) -> Floats:
        """Return the judge's features of one of its stages, the last by default, averaged over places, (n, width)."""
        parts = [self.features(images[start : start + 250])[stage].mean((2, 3)) for start in range(0, len(images), 250)]
        return torch.cat(parts).double().numpy()


def source(scene: Scene, key: str = "") -> Sample:
    """Return a composite as the source of a run."""
    return Sample(
        key=key or scene.key,
        source_key=key or scene.key,
        role="source",
        image=picture(scene),
        label=scene.label,
        class_name=scene.class_name,
        split="train",
        attributes={"background": scene.background, "colour": scene.colour},
    )


def captioned(samples: Sequence[Sample], scenes: Sequence[Scene]) -> list[Sample]:
    """Return the sources with their true captions."""
    return [replace(sample, caption=caption(scene)) for sample, scene in zip(samples, scenes, strict=True)]


def picture(scene: Scene) -> bytes:
    """Return a true composite as a JPEG."""
    return encode_jpeg(render(scene, load_garments("heldout"))[0], JPEG_QUALITY)


def pixels(images: Sequence[ImageBytes]) -> NDArray[np.uint8]:
    """Return encoded images as (n, 64, 64, 3) uint8."""
    return np.stack([np.asarray(decode_rgb(image)) for image in images])


def bootstrapped(
    name: str,
    statistic: Callable[[NDArray[np.intp]], float],
    n: int,
    target: float | None = None,
    *,
    unit: str = "share",
) -> Figure:
    """Return a figure that is a function of rows, its interval from resampled rows (percentiles)."""
    rng = np.random.default_rng(0)
    drawn = [statistic(rng.integers(n, size=n)) for _ in range(NUM_RESAMPLES)]
    return _with_interval(name, float(statistic(np.arange(n))), drawn, n, unit, target)


def _with_interval(
    name: str, value: float, drawn: Sequence[float], n: int, unit: str, target: float | None = None
) -> Figure:
    """Return a figure with the 2.5 and 97.5 percentiles of the draws; a target is a lower bound."""
    low, high = (float(bound) for bound in np.percentile(drawn, [2.5, 97.5]))
    better: Literal["higher"] | None = None if target is None else "higher"
    return Figure(name=name, value=value, low=low, high=high, target=target, better=better, n=n, unit=unit)


def kept(name: str, after: Bools, before: Bools, target: float | None = None) -> Figure:
    """Return the judge's accuracy on edits as a share of its accuracy on the same composites unedited."""
    return ratio(name, after, before, target, unit="of ceiling")


def ratio(name: str, top: Bools, bottom: Bools, target: float | None = None, *, unit: str = "share") -> Figure:
    """Return the number of rows of `top` as a share of those of `bottom`, with a bootstrapped interval."""

    def of_rows(rows: NDArray[np.intp]) -> float:
        return float(top[rows].mean() / max(bottom[rows].mean(), 1e-9))

    return bootstrapped(name, of_rows, len(top), target, unit=unit)


def kernel_distance(left: Floats, right: Floats) -> float:
    """Return KID: the unbiased squared MMD with kernel (x y / width + 1)^3 (Binkowski et al. 2018). 0 for equal laws.

    Its features are those that it is given; the literature's are of an Inception network, so values do not compare.
    """

    def kernel(x: Floats, y: Floats) -> Floats:
        return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)

    def off_diagonal(x: Floats) -> float:
        values = kernel(x, x)
        return float((values.sum() - np.trace(values)) / (len(x) * (len(x) - 1)))

    return off_diagonal(left) + off_diagonal(right) - 2 * float(kernel(left, right).mean())


def kernel_figure(name: str, left: Floats, right: Floats, subset: int = 500, draws: int = 100) -> Figure:
    """Return the mean KID over pairs of random subsets, with the 2.5 and 97.5 percentiles of the draws."""
    rng = np.random.default_rng(0)
    # Half at the most: subsets of the whole would all be the same, and the interval nothing.
    size = min(subset, len(left) // 2, len(right) // 2)
    drawn = [
        kernel_distance(
            left[rng.choice(len(left), size, replace=False)], right[rng.choice(len(right), size, replace=False)]
        )
        for _ in range(draws)
    ]
    return _with_interval(name, float(np.mean(drawn)), drawn, len(left) + len(right), "KID")
