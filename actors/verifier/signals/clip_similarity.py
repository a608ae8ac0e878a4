"""The signal of CLIP: does the edit show what its caption says, and is it still its source?"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from actors.verifier.signals.clip import Clip
from actors.verifier.signals.signal import Scores, Signal
from engine.names import first_word
from engine.sample import Json, Sample

# An embedding of length 1, (dim,).
Embedding = NDArray[np.float32]


class ClipSimilarity(Signal):
    """Score cosines between embeddings of images and texts (Prabhu et al. 2023, LANCE).

    A source gets `text_source`, an edit `image`, `text_source`, `text_edit`, `directional` and `consistency`, behind
    the `name` of a signal that is not the verifier's own. With words of classes an edit gets `class` too: how much
    nearer it is to "a photo of a {word of its class}" than its source. It asks for no other classes, so that it does
    not depend on which there are.
    """

    def __init__(self, clip: Clip, words: Mapping[str, Sequence[str]] | None = None, *, name: str = "") -> None:
        self._clip, self._words, self._prefix = clip, words, f"{name}." if name else ""
        self.provenance: Mapping[str, Json] = {"model": clip.provenance}
        # A text that is empty has the embedding NaN.
        self._texts = {"": np.full(1, np.nan, dtype=np.float32)}

    def begin(self, samples: Sequence[Sample]) -> None:
        """Embed every text of the samples once."""
        edits = [sample.edit for sample in samples if sample.edit is not None]
        wanted = {sample.caption for sample in samples}
        wanted.update(text for edit in edits for text in (edit.caption, edit.before, edit.after))
        if self._words is not None:
            wanted.update(_class_text(sample, self._words) for sample in samples)
        self._texts = {"": self._texts[""], **self._clip.texts(sorted(wanted - {""}))}

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """Return the model's input (3, height, width)."""
        return self._clip.pixels(image)

    def see(self, prepared: Sequence[torch.Tensor]) -> list[Embedding]:
        """Return the embedding of each image."""
        return self._clip.images(prepared)

    def source_scores(self, source: Sample, seen: Embedding) -> Scores:
        """Return how well a source fits its caption."""
        return {f"{self._prefix}text_source": cosine(seen, self._texts[source.caption])}

    def edit_scores(
        self, edit: Sample, seen: Embedding, source_seen: Embedding, placebo_seen: Embedding | None
    ) -> Scores:
        """Return the scores of an edit beside its source; NaN where one is undefined."""
        assert edit.edit is not None  # the verifier asks for edits
        old, new = self._texts[edit.caption], self._texts[edit.edit.caption]
        text_changes = edit.edit.caption != edit.caption
        towards = cosine(seen, self._texts[edit.edit.after]) - cosine(seen, self._texts[edit.edit.before])
        kept: Scores = {}
        if self._words is not None:
            text = self._texts[_class_text(edit, self._words)]
            kept = {"class": cosine(seen, text) - cosine(source_seen, text)}
        found = kept | {
            "image": cosine(source_seen, seen),
            "text_source": cosine(source_seen, old),
            "text_edit": cosine(seen, new),
            "directional": directional(source_seen, seen, old, new) if text_changes else math.nan,
            "consistency": towards if text_changes else math.nan,
        }
        return {f"{self._prefix}{name}": value for name, value in found.items()}


def _class_text(sample: Sample, words: Mapping[str, Sequence[str]]) -> str:
    return f"a photo of a {first_word(sample.class_name, words)}"


def cosine(left: Embedding, right: Embedding) -> float:
    """Return the cosine of two vectors of length 1."""
    return float((left * right).sum())


def directional(source: Embedding, edit: Embedding, old: Embedding, new: Embedding) -> float:
    """Return the cosine between the change of the image and the change of the text, NaN where one did not change.

    All four embeddings have length 1. StyleGAN-NADA (Gal et al. 2021), eq. 2.
    """
    image_change, text_change = edit - source, new - old
    length = float(np.linalg.norm(image_change) * np.linalg.norm(text_change))
    return float((image_change * text_change).sum()) / length if length > 0 else math.nan
