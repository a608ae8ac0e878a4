"""The value ranges of a run's images, found before it and kept in its run file."""

import logging

from engine.errors import SourceError
from engine.runfile.data import AnySource, ImageSource
from engine.runfile.run import RunFile
from engine.sources import open_source
from engine.sources.formats.depth import RANGE_REMEDY
from engine.sources.survey import survey_source
from engine.wording import name_some

logger = logging.getLogger(__name__)


def with_value_ranges(run: RunFile) -> RunFile:
    """Return the run file with the value range of each source whose images have more than 8 bits a channel.

    Raise SourceError where nothing says what is white, or where two sources would be scaled in different ways.
    """
    found = {name: with_value_range(source, f"data.{name}") for name, source in run.data.sources().items()}
    changed = {name: source for name, source in found.items() if source != getattr(run.data, name)}
    ranges = {f"data.{name}": source.value_range for name, source in changed.items() if isinstance(source, ImageSource)}
    if len(set(ranges.values())) > 1:
        seen = ", ".join(f"{name} {list(value)}" for name, value in ranges.items())
        raise SourceError(f"images have values in different ranges ({seen}): set value_range in each of these sources")
    return run.model_copy(update={"data": run.data.model_copy(update=changed)}) if changed else run


def with_value_range(config: AnySource, name: str) -> AnySource:
    """Return a source with the value range of its images where it is `auto` and they have more than 8 bits a channel.

    Raise SourceError where nothing says what is white; `name` is that of the source. Images of one colour are named in
    a warning.
    """
    if not isinstance(config, ImageSource):
        return config
    seen = survey_source(open_source(config))
    if seen.plain:
        logger.warning(
            "%s: %d of %d images looked at have one colour everywhere, so nothing can be seen in them: %s",
            *(name, len(seen.plain), seen.num_images, name_some(seen.plain)),
        )
    if not seen.spans or config.value_range != "auto":
        return config
    if (found := seen.value_range) is None:
        values = " and ".join(f"from {low:g} to {high:g}" for _, (low, high) in seen.spans)
        raise SourceError(f"{name}: images hold values {values}, and nothing says which is white: {RANGE_REMEDY}")
    logger.info("%s: images hold values up to %g, read as value_range: [%g, %g]", name, seen.spans[0][1][1], *found)
    return config.model_copy(update={"value_range": found})
