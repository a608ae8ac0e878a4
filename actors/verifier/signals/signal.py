"""The interface of a signal: what it sees of an image, and its scores of an edit beside its source."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from PIL import Image

from engine.sample import Json, Sample

# What each signal sees of one image, in the order of the signals.
Seen = tuple[Any, ...]
# Scores by name: finite numbers, or NaN where one is undefined.
Scores = dict[str, float]


class Signal(ABC):
    """Score edits. The verifier shows it the images of a shard in batches, then asks for the scores of each sample.

    What it sees of an image is its own: features, a number. The names of its scores are fixed, and no two signals have
    one in common. `provenance` is recorded with every sample.
    """

    provenance: Mapping[str, Json] = MappingProxyType({})

    def begin(self, samples: Sequence[Sample]) -> None:
        """Prepare for the samples of a shard, such as by embedding their texts, and forget those before."""
        return

    @abstractmethod
    def prepare(self, image: Image.Image) -> Any:  # noqa: ANN401 the signal's own
        """Return what `see` takes of an image. Several reading threads call it at once."""

    def see(self, prepared: Sequence[Any]) -> Sequence[Any]:
        """Return what is seen of each image of a batch."""
        return prepared

    def source_scores(self, source: Sample, seen: Any) -> Scores:  # noqa: ANN401 the signal's own
        """Return the scores of a source by itself."""
        return {}

    @abstractmethod
    def edit_scores(self, edit: Sample, seen: Any, source_seen: Any, placebo_seen: Any) -> Scores:  # noqa: ANN401
        """Return the scores of an edit beside its source and its placebo (None: there is none, or it is the edit)."""

    def note(self, seen: Any) -> tuple[str, str] | None:  # noqa: ANN401 the signal's own
        """Return its name and what it says of an edit in words, for a person to read; None where it says nothing."""
        return None


def see_images(signals: Sequence[Signal], prepared: Sequence[tuple[Any, ...]]) -> Iterator[Seen]:
    """Yield what the signals see of each image of a batch, of which each has prepared its part."""
    by_signal = [signal.see([image[place] for image in prepared]) for place, signal in enumerate(signals)]
    yield from zip(*by_signal, strict=True)


def edit_scores(
    signals: Sequence[Signal], edit: Sample, seen: Seen, source_seen: Seen, placebo_seen: Seen | None = None
) -> Scores:
    """Return the scores of all signals of an edit beside its source and its placebo, where there is one."""
    scores: Scores = {}
    placebos = placebo_seen or (None,) * len(signals)
    for signal, own, source, placebo in zip(signals, seen, source_seen, placebos, strict=True):
        scores |= signal.edit_scores(edit, own, source, placebo)
    return scores
