"""A look at some images of a source: the range of those with more than 8 bits a channel, and images of one colour.

Images of one data set share a scale, so the range is found over many of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from heapq import nsmallest
from itertools import islice

from engine.sample import content_seed
from engine.sources.decode import has_contrast, wide_values
from engine.sources.formats.depth import ValueRange, common_range
from engine.sources.item import InColumns, Source, SourceItem, UnreadableItemError

# Drawn by their keys among the first of the listing. Values outside of the range are refused when they are read.
NUM_LOOKED_AT = 64
NUM_LISTED = 100_000


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What some images of a source hold: `spans` are the values of floating-point images and of integer ones.

    `plain` names the images of one colour, of `num_images` that were looked at.
    """

    spans: Sequence[tuple[bool, ValueRange]]
    plain: Sequence[str]
    num_images: int

    @property
    def value_range(self) -> ValueRange | None:
        """Return the range of the images with more than 8 bits a channel, None where the values do not tell."""
        if len(self.spans) != 1:
            return None
        ((is_floating, span),) = self.spans
        return common_range(span, is_floating=is_floating)


def survey_source(source: Source) -> Survey:
    """Return what is seen in the same images of a source each time; SourceError where it cannot be listed."""
    items = nsmallest(NUM_LOOKED_AT, islice(_listed(source), NUM_LISTED), key=lambda item: content_seed(0, item.key))
    spans: dict[bool, list[float]] = {}
    plain = []
    for item in items:
        with suppress(UnreadableItemError):  # it is named when it is read for the run
            data = source.read(item)
            values = wide_values(data)
            if values is not None and values.declared is None:
                spans.setdefault(values.is_floating, []).extend((values.colours.min(), values.colours.max()))
            if not has_contrast(data):
                plain.append(item.locator)
    found = [(is_floating, (float(min(span)), float(max(span)))) for is_floating, span in spans.items()]
    return Survey(spans=found, plain=plain, num_images=len(items))


def _listed(source: Source) -> Iterator[SourceItem]:
    """Yield the items of a source, as far as they are asked for; in columns their labels are not known yet."""
    if not isinstance(source, InColumns):
        yield from source.items()
        return
    for columns in source.columns():
        names = [field.name for field in fields(columns)]
        for row in zip(*(getattr(columns, name) for name in names), strict=True):
            yield SourceItem(label=-1, **dict(zip(names, row, strict=True)))
