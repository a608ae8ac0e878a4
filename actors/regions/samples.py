"""The regions of the samples of a shard: where each main object is, and what each edit names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from actors.regions.control import control_box
from actors.regions.finder import THRESHOLD, Pixels, RegionFinder, with_margin, without_specks
from engine.names import prompt_word
from engine.sample import Edit, Sample, content_seed


@dataclass(frozen=True, kw_only=True)
class PictureRegions:
    """Where things are in a picture: `main` is the probability of each pixel to be of its class, (height, width).

    `named` is what `Edit.before` names of each edit of its source in one turn, (height, width) bool with a margin, by
    the edit's key; `word` is how the class was called.
    """

    word: str
    main: torch.Tensor
    named: Mapping[str, torch.Tensor]

    @cached_property
    def of_class(self) -> torch.Tensor | str:
        """Return the main object, (height, width) bool with a margin, or why it cannot be told from its background."""
        return _checked(with_margin(self.main > THRESHOLD), self.word)

    def of_edit(self, sample: Sample, edit: Edit, run_seed: int) -> torch.Tensor | str:
        """Return what an edit names, (height, width) bool with a margin, or why that cannot be changed.

        A placebo's is the control of its source's first edit: a box as large, in another place.
        """
        if sample.role != "placebo":
            return _checked(self.named[sample.key], edit.before)
        found = [region for _, region in sorted(self.named.items()) if region.any()]
        if not found:
            return "of what the edits of its source name nothing is found: there is no region as large as it"
        return control_box(found[0], (self.main > THRESHOLD,), content_seed(run_seed, sample.drawn_on))


def find_regions(
    finder: RegionFinder,
    pixels: Mapping[str, Pixels],
    wanted: Sequence[tuple[Sample, Edit]],
    words: Mapping[str, Sequence[str]],
    *,
    asks_named: bool,
) -> dict[str, PictureRegions]:
    """Return the regions of each picture that the edits of one turn are drawn on, by its key, found in one pass.

    `pixels` are the pictures' (height, width, 3), by their keys; those of one that cannot be read are missing.
    `asks_named`: what the edits name is looked for too.
    """
    called = {sample.drawn_on: prompt_word(sample.class_name, words) for sample, _ in wanted}
    source_of = {sample.drawn_on: sample.source_key for sample, _ in wanted}
    asked = [(picture, "", called[picture]) for picture in pixels if picture in called]
    if asks_named:
        asked += [
            (sample.drawn_on, sample.key, edit.before)
            for sample, edit in wanted
            if sample.role != "placebo" and sample.drawn_on in pixels
        ]
    found = finder([pixels[picture] for picture, *_ in asked], [word.replace("_", " ") for *_, word in asked])
    main: dict[str, torch.Tensor] = {}
    named: dict[str, dict[str, torch.Tensor]] = {}
    for (picture, edit, _), probability in zip(asked, found, strict=True):
        if edit:
            region = with_margin(without_specks(probability > THRESHOLD))
            named.setdefault(source_of[picture], {})[edit] = region
        else:
            main[picture] = probability
    return {
        picture: PictureRegions(word=called[picture], main=each, named=named.get(source_of[picture], {}))
        for picture, each in main.items()
    }


def _checked(region: torch.Tensor, words: str) -> torch.Tensor | str:
    """Return a region, or where it covers nothing or everything a reason in words."""
    if bool(region.any()) and not bool(region.all()):
        return region
    where = "in the whole picture" if bool(region.any()) else "nowhere in the picture"
    return f"the mask model sees {words!r} {where}: nothing is left to change or to keep"
