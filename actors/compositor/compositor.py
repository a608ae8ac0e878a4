"""The compositor stage: edits made of photographs alone, each with the control of its method."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import assert_never

import numpy as np
import torch

from actors.compositor.cutout import Cutout, cut_out
from actors.compositor.fill import filled
from actors.compositor.grounds import Grounds, to_picture
from actors.images.codec import encode_jpeg, encode_png
from actors.images.pictures import read_pictures
from actors.regions.make import make_finder
from actors.regions.samples import PictureRegions, find_regions
from engine.regions import encode_region, join_regions
from engine.runfile.editor import CompositorConfig
from engine.sample import Edit, Json, Rejection, Sample, draw_turns


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture to edit, (3, height, width) in [0, 1], and where in it things are.

    `changed` are the regions of the turns that made it, as text, "" of a source.
    """

    picture: torch.Tensor
    regions: PictureRegions
    changed: str

    @cached_property
    def main_object(self) -> Cutout:
        """Return the main object, cut out once for all edits of the picture."""
        return cut_out(self.picture, self.regions.main)


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A finished picture, (3, height, width) in [0, 1], and the region that changed, (height, width) bool."""

    picture: torch.Tensor
    region: torch.Tensor
    record: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why an edit cannot be made: a `reason` that is counted, and a detail for a person."""

    reason: str
    detail: str


class Compositor:
    """Fill in the image of each sample whose edit names this stage, or none; all others pass untouched.

    A picture has the size of its source. What changed is kept as the region of its edit. Placebos show what the method
    does by itself: that of `swap` stands on another photograph of the same ground, that of `remove` has a box filled.
    """

    def __init__(
        self,
        config: CompositorConfig,
        device: torch.device,
        *,
        name: str,
        seed: int,
        offline: bool,
        words: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        self.config, self.name, self.seed, self.words = config, name, seed, words
        self.finder = make_finder(
            config.mask_model, config.box_model, device, batch_size=config.batch_size, offline=offline
        )
        self.grounds = None if config.grounds is None else Grounds(config.grounds)
        self.provenance: dict[str, Json] = {
            "method": config.method,
            "mask_model": dict(self.finder.provenance),
            "torch": torch.__version__,
        }

    def __call__(self, batch: Sequence[Sample]) -> Iterator[Sample | Rejection]:
        """Yield each sample of the batch, edited where it has an edit and no image yet."""
        yield from draw_turns(self.name, batch, self._draw)

    def _draw(self, batch: Sequence[Sample], wanted: Sequence[tuple[Sample, Edit]]) -> dict[str, Sample | Rejection]:
        """Return the edits of one turn by their keys, made of pictures of the batch."""
        scenes = self._scenes(batch, wanted)
        return {sample.key: self._result(sample, edit, scenes.get(sample.drawn_on)) for sample, edit in wanted}

    def _scenes(self, batch: Sequence[Sample], wanted: Sequence[tuple[Sample, Edit]]) -> dict[str, Scene | str]:
        """Return the scene of each picture that has an edit here, by its key; of an unreadable one the reason."""
        read = read_pictures(batch, {sample.drawn_on for sample, _ in wanted}, np.array, self.config)
        changed = {sample.key: sample.edit.region if sample.edit else "" for sample in batch}
        pixels = {key: each for key, each in read.items() if not isinstance(each, str)}
        found = find_regions(self.finder, pixels, wanted, self.words, asks_named=self.config.method == "remove")
        return {
            key: each
            if isinstance(each, str)
            else Scene(picture=to_picture(each), regions=found[key], changed=changed[key])
            for key, each in read.items()
        }

    def _result(self, sample: Sample, edit: Edit, scene: Scene | str | None) -> Sample | Rejection:
        if not isinstance(scene, Scene):
            detail = scene or "its source did not come along"
            return Rejection.of(sample, stage=self.name, reason="no_source_image", detail=detail)
        made = self._composed(sample, edit, scene)
        if isinstance(made, Problem):
            return Rejection.of(sample, stage=self.name, reason=made.reason, detail=made.detail)
        pixels = (made.picture.permute(1, 2, 0) * 255).round().clamp(0, 255).to(torch.uint8).numpy()
        return replace(
            sample,
            image=encode_png(pixels) if self.config.lossless else encode_jpeg(pixels, self.config.jpeg_quality),
            edit=replace(sample.edit or edit, region=join_regions(scene.changed, encode_region(made.region.numpy()))),
            provenance={**sample.provenance, self.name: {**self.provenance, **made.record}},
        )

    def _composed(self, sample: Sample, edit: Edit, scene: Scene) -> Composed | Problem:
        if edit.severity < 1:
            return Problem(reason="no_severity", detail="cutting and pasting has no milder edit: leave out severities")
        match self.config.method:
            case "swap":
                return self._swapped(sample, edit, scene)
            case "remove":
                return self._without(sample, edit, scene)
            case _:
                assert_never(self.config.method)

    def _swapped(self, sample: Sample, edit: Edit, scene: Scene) -> Composed | Problem:
        """Return the main object on a photograph of the ground that the edit names, a placebo's on one of its own."""
        assert self.grounds is not None
        if isinstance(problem := scene.regions.of_class, str):
            return Problem(reason="no_mask", detail=problem)
        if (ground := self.grounds.named_in(edit.after)) is None:
            known = ", ".join(self.grounds.names[:8])
            return Problem(reason="no_ground", detail=f"{edit.after!r} names no ground; there are {known}")
        key, photograph = self.grounds.photograph(ground, sample.seed(self.seed))
        if isinstance(photograph, str):
            return Problem(reason="unreadable_ground", detail=photograph)
        cutout = scene.main_object
        return Composed(picture=cutout.on(photograph), region=cutout.alpha < 1, record={"ground": key})

    def _without(self, sample: Sample, edit: Edit, scene: Scene) -> Composed | Problem:
        """Return the picture without the thing that the edit names, a placebo's without a box as large elsewhere."""
        region = scene.regions.of_edit(sample, edit, self.seed)
        if isinstance(region, str):
            return Problem(reason="no_region", detail=region)
        return Composed(picture=filled(scene.picture, (~region).float()), region=region)
