"""Sources of labelled images: open_source lists and reads them, read_sample checks and converts one."""

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import assert_never

from engine.errors import SourceError
from engine.runfile.data import (
    AnySource,
    FolderSource,
    GroundsSource,
    HuggingFaceSource,
    ImageSource,
    TableSource,
    TarSource,
    WardrobeSource,
)
from engine.sample import Rejection, Sample, Split
from engine.sources.decode import Reading, to_jpeg
from engine.sources.folder import FolderImages
from engine.sources.formats.depth import ValueRange
from engine.sources.huggingface import HuggingFaceImages
from engine.sources.item import Source, SourceItem, UnreadableItemError, WithMasks
from engine.sources.labels import leading_zeros
from engine.sources.survey import survey_source
from engine.sources.table import TableImages
from engine.sources.tar import TarImages
from engine.sources.wardrobe import GroundImages, WardrobeImages

__all__ = [
    "STAGE",
    "Source",
    "SourceItem",
    "UnreadableItemError",
    "WithMasks",
    "listing_remarks",
    "masked",
    "missing_files",
    "open_source",
    "read_sample",
    "stored_image",
]

STAGE = "source"


def open_source(config: AnySource) -> Source:
    """Return the source of a configuration, cheap enough for each actor; raise SourceError where it is missing."""
    match config:
        case FolderSource():
            return FolderImages(config)
        case TableSource():
            return TableImages(config)
        case TarSource():
            return TarImages(config)
        case HuggingFaceSource():
            return HuggingFaceImages(config)
        case WardrobeSource():
            return WardrobeImages(config)
        case GroundsSource():
            return GroundImages(config)
        case _:
            assert_never(config)


def stored_image(source: Source, data: bytes) -> bytes:
    """Return an encoded image of a source as the run stores it; raise UnreadableItemError."""
    config = source.config
    if not isinstance(config, ImageSource):
        return to_jpeg(data)
    value_range = None if config.value_range == "auto" else config.value_range
    reading = Reading(value_range=value_range, is_managed=config.colour == "srgb")
    try:
        return to_jpeg(data, reading)
    except UnreadableItemError as error:
        if error.reason != "value_range" or config.value_range != "auto" or not (found := _range_of(config)):
            raise
        return to_jpeg(data, replace(reading, value_range=found))


@lru_cache
def _range_of(config: AnySource) -> ValueRange | None:
    return survey_source(open_source(config)).value_range


def masked(source: Source) -> WithMasks:
    """Return a source that knows its masks; raise SourceError for another."""
    if isinstance(source, WithMasks) and source.has_masks:
        return source
    raise SourceError(
        "the arm recombine needs to know where the object of each image is: give a table with the column `mask`, the "
        f"path of a picture that is white there (this is a {source.config.kind} without), or leave the arm out"
    )


def listing_remarks(source: Source) -> list[str]:
    """Return what is remarkable in a source that was listed, a line each: what was left out, names that look alike."""
    return [*source.notes, *leading_zeros(source.classes)]


def missing_files(config: AnySource, locators: Iterable[str]) -> list[str]:
    """Return those of a table's images that do not exist, sorted; none of other sources, which list what is there."""
    return sorted(TableImages(config).absent(locators)) if isinstance(config, TableSource) else []


def read_sample(source: Source, item: SourceItem, split: Split) -> Sample | Rejection:
    """Return the item as a sample with a plain RGB JPEG, or as a Rejection where it cannot be read."""
    try:
        image = stored_image(source, source.read(item))
    except UnreadableItemError as error:
        return Rejection(key=item.key, source_key=item.key, stage=STAGE, reason=error.reason, detail=error.detail)
    return Sample(
        key=item.key,
        source_key=item.key,
        role="source",
        image=image,
        label=item.label,
        class_name=item.class_name,
        split=split,
        caption=item.caption,
        attributes=item.attributes,
        provenance={"source": item.locator},
    )
