"""Sources of labelled images: open_source lists and reads them, read_sample checks and converts one."""

from typing import assert_never

from engine.runfile.data import AnySource, FolderSource, HuggingFaceSource, TableSource, TarSource, WardrobeSource
from engine.sample import Rejection, Sample, Split
from engine.sources.decode import to_jpeg
from engine.sources.folder import FolderImages
from engine.sources.huggingface import HuggingFaceImages
from engine.sources.item import Source, SourceItem, UnreadableItemError
from engine.sources.table import TableImages
from engine.sources.tar import TarImages
from engine.sources.wardrobe import WardrobeImages

__all__ = ["STAGE", "Source", "SourceItem", "UnreadableItemError", "open_source", "read_sample"]

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
        case _:
            assert_never(config)


def read_sample(source: Source, item: SourceItem, split: Split) -> Sample | Rejection:
    """Return the item as a sample with a plain RGB JPEG, or as a Rejection where it cannot be read."""
    try:
        image = to_jpeg(source.read(item))
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
