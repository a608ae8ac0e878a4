"""Checks of the fine-tuning: what DeepSpeed would refuse, when Ray and all models are up, and an arm without masks."""

from collections.abc import Iterator
from contextlib import suppress

from engine.errors import SourceError, UserError
from engine.plan.plan import Plan
from engine.runfile.run import RunFile
from engine.sources import Source, UnreadableItemError, WithMasks, masked, open_source
from engine.sources.decode import grey_pixels, image_size
from engine.sources.table import TableImages
from engine.training.deepspeed import deepspeed_settings
from engine.wording import name_some

NUM_COMPARED = 64


def check_deepspeed(run: RunFile, plan: Plan) -> Iterator[str | UserError]:
    """Raise what is wrong with `reinforce.deepspeed`, where the classifier has weights to train."""
    if run.probe.model is not None:
        deepspeed_settings(run.reinforce)
    yield from ()


def check_masks(run: RunFile, plan: Plan) -> Iterator[str | UserError]:
    """Yield where an arm that recombines images has no masks, or wrong ones."""
    fields = {
        "oracle" if arm.is_bound else "train": name
        for name, arm in run.reinforce.arms.items()
        if arm.augment == "recombine"
    }
    for name, config in run.data.sources().items():
        if name in fields and run.probe.model is not None:
            source = open_source(config)
            try:
                yield from _wrong_masks(f"data.{name}", source, masked(source))
            except SourceError as error:
                yield SourceError(f"reinforce.arms.{fields[name]} on data.{name}: {error}")


def _wrong_masks(field: str, source: Source, masks: WithMasks) -> Iterator[str | UserError]:
    if not isinstance(source, TableImages):
        return
    absent = source.absent(mask for mask in source.masks.values() if mask)
    if without := sorted(locator for locator, mask in source.masks.items() if not mask or mask in absent):
        said = f"{field}: {len(without):,} of {len(source.masks):,} images have no mask, such as {name_some(without)}"
        if len(without) == len(source.masks):
            yield SourceError(f"{said}: correct the paths in the column `mask`, which are relative as those of images")
        else:
            yield f"{said}: these are never recombined"
    for _, item in zip(range(NUM_COMPARED), source.items(), strict=False):
        with suppress(UnreadableItemError):  # counted already
            data = masks.mask(item)
            sizes = ["{} x {}".format(*image_size(each)) for each in (data, source.read(item))]
            said = f"{field}: the mask {source.masks[item.locator]}"
            if sizes[0] != sizes[1]:
                yield SourceError(f"{said} has {sizes[0]} pixels, its image {sizes[1]}: a mask has its image's size")
                return
            if (white := int(grey_pixels(data, min(image_size(data))).max())) < 128:
                yield SourceError(f"{said} has no value above {white}: the object is white there, 255")
                return
