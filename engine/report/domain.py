"""Whether the models of a run know its images: captions that name their class, and edits as large as their sources."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa

from engine.names import class_words, count_named
from engine.runfile.perturber import PerturberConfig
from engine.runfile.run import RunFile
from engine.sample import ImageBytes, Sample
from engine.sources.decode import image_size
from engine.wording import count, percent

# A larger run is looked at here and there.
MAX_CAPTIONS, MAX_EDITS = 2000, 200
# A warning is given below these: the share of captions that name their class, and the edge of edits by that of sources.
MIN_NAMED, MIN_SCALE = 0.5, 0.5

Size = tuple[int, int]
Sizes = tuple[Size, Size]


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Counts of captions that name their class, and median sizes (width, height) of sources and of their edits.

    `scale` is the median of an edit's edge by that of its source, the edge being the root of the area.
    """

    num_captions: int
    num_named: int
    source_size: Size | None
    edit_size: Size | None
    scale: float | None

    def sentence(self) -> str:
        """Return both findings in words, "" where nothing was looked at."""
        parts = []
        if self.num_captions:
            named = percent(self.num_named / self.num_captions, 0)
            parts.append(f"{count(self.num_named)} of {count(self.num_captions)} captions name their class ({named}).")
        if self.source_size and self.edit_size:
            source, edit = (f"{width} × {height}" for width, height in (self.source_size, self.edit_size))
            parts.append(f"The median size of edits is {edit} pixels, that of their sources {source}.")
        return " ".join(parts)

    def warnings(self) -> list[str]:
        """Return a line for each sign that a model does not know these images."""
        found = []
        if self.num_named < MIN_NAMED * self.num_captions:
            found.append(
                f"Only {count(self.num_named)} of {count(self.num_captions)} captions name their class: where the "
                "captioner does not know these images, edits change what is not there. Take another captioner, or give "
                f"captions with the data. (Warned below {percent(MIN_NAMED, 0)}.)"
            )
        if self.scale is not None and self.scale < MIN_SCALE:
            found.append(
                f"Edits have {percent(self.scale, 0)} of the edge length of their sources: detail is lost that the "
                "classifier may need. Take an editor for larger pictures, or raise its `size`. "
                f"(Warned below {percent(MIN_SCALE, 0)}.)"
            )
        return found


def domain_of(candidates: pa.Table, sizes: Sequence[Sizes], run: RunFile) -> Domain:
    """Return what the rows of edits say of captions, and the medians of sizes as `sizes_of` gives them.

    Classes without words, such as WordNet ids, are left out unless the perturber's class_words names them.
    """
    words = [stage.class_words for stage in run.stages.values() if isinstance(stage, PerturberConfig)]
    given: Mapping[str, Sequence[str]] = words[0] if words else {}
    captions = [pair for pair in _captions(candidates) if class_words(pair[1], given)]
    scales = [float(np.sqrt(np.prod(edit) / np.prod(source))) for source, edit in sizes]
    medians = np.median(np.array(sizes), axis=0).round().astype(int).tolist() if sizes else (None, None)
    return Domain(
        num_captions=len(captions),
        num_named=count_named(captions, given),
        source_size=medians[0] and tuple(medians[0]),
        edit_size=medians[1] and tuple(medians[1]),
        scale=float(np.median(scales)) if scales else None,
    )


def sizes_of(samples: Iterable[Sample]) -> list[Sizes]:
    """Return the sizes of up to MAX_EDITS pairs of a source and its edit, from the headers of their images."""
    sources: dict[str, ImageBytes] = {}

    def pairs() -> Iterator[Sizes]:
        for sample in samples:
            if sample.role == "source":
                sources[sample.key] = sample.image
            elif sample.role == "counterfactual" and sample.image and sources.get(sample.source_key):
                yield image_size(sources[sample.source_key]), image_size(sample.image)

    return list(islice(pairs(), MAX_EDITS))


def _captions(candidates: pa.Table) -> list[tuple[str, str]]:
    """Return caption and class of up to MAX_CAPTIONS sources, spread over the rows."""
    columns = candidates.select(["source_key", "caption", "class_name"])
    step = max(1, columns.num_rows // (4 * MAX_CAPTIONS))  # a source has some four rows
    rows = columns.take(np.arange(0, columns.num_rows, step)).to_pylist()
    found = {row["source_key"]: (row["caption"], row["class_name"]) for row in rows if row["caption"]}
    return list(found.values())[:MAX_CAPTIONS]
