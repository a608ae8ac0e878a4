"""Masks for inpainting: what a word names in a picture, or all but it."""

from collections.abc import Mapping, Sequence
from typing import assert_never

import torch

from actors.images.frame import Frame
from actors.regions.finder import RegionFinder
from actors.regions.samples import PictureRegions, find_regions
from engine.runfile.editor import InpaintRegion
from engine.sample import Edit, Sample


class InpaintMasks:
    """Mask the region of each edit, with a small margin around what a word names."""

    def __init__(
        self, finder: RegionFinder, region: InpaintRegion, words: Mapping[str, Sequence[str]], seed: int
    ) -> None:
        self.finder, self.region, self.words, self.seed = finder, region, words, seed
        self.provenance = finder.provenance

    def __call__(
        self, frames: Mapping[str, Frame], wanted: Sequence[tuple[Sample, Edit]]
    ) -> dict[str, torch.Tensor | str]:
        """Return the mask of each edit on a picture that has a frame, by its sample's key; or why it has none.

        A mask is (1, size, size) in {0, 1}: 1 where it is redrawn.
        """
        pixels = {key: frame.pixels for key, frame in frames.items()}
        found = find_regions(self.finder, pixels, wanted, self.words, asks_named=self.region == "named")
        masks: dict[str, torch.Tensor | str] = {}
        for sample, edit in wanted:
            if sample.drawn_on in found:
                region = self._region(found[sample.drawn_on], sample, edit)
                masks[sample.key] = region if isinstance(region, str) else region[None].float()
        return masks

    def _region(self, found: PictureRegions, sample: Sample, edit: Edit) -> torch.Tensor | str:
        match self.region:
            case "named":
                return found.of_edit(sample, edit, self.seed)
            case "class":
                return found.of_class
            case "background":
                region = found.of_class
                return region if isinstance(region, str) else ~region
            case _:
                assert_never(self.region)
