"""The interface of a signal: what it sees of an image, and its scores of an edit beside its source."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from PIL import Image

from engine.sample import Json, Sample

# Scores by name: finite numbers, or NaN where one is undefined.
Scores = dict[str, float]


class Signal(Protocol):
    """Score edits. The verifier shows it the images of a shard in batches, then asks for the scores of each sample.

    What it sees of an image is its own: features, a number. The names of its scores are fixed, and no two signals have
    one in common. `provenance` is recorded with every sample.
    """

    provenance: Mapping[str, Json]

    def begin(self, samples: Sequence[Sample]) -> None:
        """Prepare for the samples of a shard, such as by embedding their texts, and forget those before."""
        ...

    def prepare(self, image: Image.Image) -> Any:  # noqa: ANN401 the signal's own
        """Return what `see` takes of an image. Several reading threads call it at once."""
        ...

    def see(self, prepared: Sequence[Any]) -> Sequence[Any]:
        """Return what is seen of each image of a batch."""
        ...

    def source_scores(self, source: Sample, seen: Any) -> Scores:  # noqa: ANN401 the signal's own
        """Return the scores of a source by itself."""
        ...

    def edit_scores(self, edit: Sample, seen: Any, source_seen: Any) -> Scores:  # noqa: ANN401 the signal's own
        """Return the scores of an edit beside its source."""
        ...
