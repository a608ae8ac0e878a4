"""The signal of CLIP: does the edit show what its caption says, and is it still its source?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, kw_only=True)
class ClassPrompts:
    """Say what a class is called in each template, by the first of its `words`, and embed it as the mean of these.

    All templates count alike. Weights without labels (Allingham et al. 2023) come from the scores of all images of a
    run; a verifier sees one shard at a time, and a score must not depend on which images share it.
    """

    templates: tuple[str, ...]
    words: Mapping[str, Sequence[str]]

    def texts(self, class_name: str) -> tuple[str, ...]:
        """Return the texts of a class."""
        word = first_word(class_name, self.words)
        return tuple(template.replace("{}", word) for template in self.templates)

    def embedding(self, class_name: str, embeddings: Mapping[str, Embedding]) -> Embedding:
        """Return the embedding of a class, of length 1, from those of its texts."""
        found = [embeddings[text] for text in self.texts(class_name)]
        if len(found) == 1:
            return found[0]
        mean = np.mean(found, axis=0)
        return np.asarray(mean / np.linalg.norm(mean))


class ClipSimilarity(Signal):
    """Score cosines between embeddings of images and texts (Prabhu et al. 2023, LANCE).

    A source gets `text_source`, an edit `image`, `text_source`, `text_edit`, `directional` and `consistency`, behind
    the `name` of a signal that is not the verifier's own. With prompts of classes an edit gets `class` too: how much
    nearer it is to its class than its source. That asks for no other classes, so that it does not depend on which there
    are. With `classes` too it gets `class_margin`: how much nearer it is to its class than to any other, the hardest
    negative; NaN where there is none. Classes that are called alike are one.
    """

    def __init__(
        self, clip: Clip, prompts: ClassPrompts | None = None, *, name: str = "", classes: Sequence[str] | None = None
    ) -> None:
        self._clip, self._prompts, self._prefix = clip, prompts, f"{name}." if name else ""
        self._classes = None if classes is None or prompts is None else _embedded(clip, prompts, classes)
        self.provenance: Mapping[str, Json] = {"model": clip.provenance}
        # A text that is empty has the embedding NaN.
        self._texts = {"": np.full(1, np.nan, dtype=np.float32)}

    def begin(self, samples: Sequence[Sample]) -> None:
        """Embed every text of the samples once."""
        edits = [sample.edit for sample in samples if sample.edit is not None]
        wanted = {sample.caption for sample in samples}
        wanted.update(text for edit in edits for text in (edit.caption, edit.before, edit.after))
        if self._prompts is not None:
            wanted.update(text for sample in samples for text in self._prompts.texts(sample.class_name))
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
        found = self._class_scores(edit, seen, source_seen) | {
            "image": cosine(source_seen, seen),
            "text_source": cosine(source_seen, old),
            "text_edit": cosine(seen, new),
            "directional": directional(source_seen, seen, old, new) if text_changes else math.nan,
            "consistency": towards if text_changes else math.nan,
        }
        return {f"{self._prefix}{name}": value for name, value in found.items()}

    def _class_scores(self, edit: Sample, seen: Embedding, source_seen: Embedding) -> Scores:
        if self._prompts is None:
            return {}
        own = self._prompts.embedding(edit.class_name, self._texts)
        scores = {"class": cosine(seen, own) - cosine(source_seen, own)}
        if self._classes is None:
            return scores
        texts = self._prompts.texts(edit.class_name)
        others = [cosine(seen, other) for name, other in self._classes.items() if name != texts]
        return scores | {"class_margin": cosine(seen, own) - max(others) if others else math.nan}


def _embedded(clip: Clip, prompts: ClassPrompts, classes: Sequence[str]) -> dict[tuple[str, ...], Embedding]:
    """Return the embedding of each class, by its texts."""
    embeddings = clip.texts(sorted({text for name in classes for text in prompts.texts(name)}))
    return {prompts.texts(name): prompts.embedding(name, embeddings) for name in classes}


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
