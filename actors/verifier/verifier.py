"""Edits to verdicts: CLIP scores of the stored bytes; engine/verdicts/rule.py has the rule that accepts or rejects."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from actors.images.codec import UnreadableImageError, decode_rgb
from actors.models.batching import prepared_batches
from actors.models.device import num_readers
from actors.verifier.clip import Clip
from engine.runfile.verifier import VerifierConfig
from engine.sample import Edit, Json, Rejection, Sample
from engine.verdicts.rule import verdict_of


@dataclass(frozen=True, kw_only=True)
class Look:
    """Hold what is known of one stored image: its CLIP embedding and its contrast."""

    embedding: NDArray[np.float32]
    contrast: float


class Verifier:
    """Add scores to every sample and a verdict to every edit; nothing is dropped.

    Scores are of the stored bytes. A source gets `text_source` and `contrast`; an edit gets `image`, `text_source`,
    `text_edit`, `directional`, `consistency` and `contrast`, NaN where undefined (Prabhu et al. 2023, LANCE). The
    classifier under test has no say.
    """

    def __init__(self, config: VerifierConfig, device: torch.device, *, name: str, offline: bool) -> None:
        self.config, self.name = config, name
        self.clip = Clip(config.model, device, batch_size=config.batch_size, offline=offline)
        self._num_readers = num_readers(config.placement)

    def __call__(self, batch: Sequence[Sample]) -> Iterator[Sample | Rejection]:
        """Yield each sample with scores, each edit with a verdict; a Rejection for bytes that are no image."""
        looks, broken = self._looks([sample for sample in batch if sample.image])
        texts = Texts(self.clip, batch)
        for sample in batch:
            look, source = looks.get(sample.key), looks.get(sample.source_key)
            if sample.role == "source":
                yield self._judged_source(sample, look, texts)
            elif look is None:
                detail = broken.get(sample.key, "no stage has made an image for this edit")
                yield Rejection.of(
                    sample, stage=self.name, reason="unreadable_image" if sample.image else "no_image", detail=detail
                )
            elif source is None or sample.edit is None:
                yield Rejection.of(
                    sample,
                    stage=self.name,
                    reason="no_source_image",
                    detail="its source did not come along, or is unreadable",
                )
            else:
                yield self._judged(sample, sample.edit, look, source, texts)

    def _looks(self, samples: Sequence[Sample]) -> tuple[dict[str, Look], dict[str, str]]:
        """Return by key what is seen, and what is wrong with bytes that are no image."""
        looks: dict[str, Look] = {}
        broken: dict[str, str] = {}
        for batch in prepared_batches(samples, self.config.batch_size, self._prepared, self._num_readers):
            broken.update((key, found) for key, found in batch if isinstance(found, str))
            seen = {key: found for key, found in batch if not isinstance(found, str)}
            embeddings = self.clip.images([pixels for pixels, _ in seen.values()])
            for (key, (_, grey)), embedding in zip(seen.items(), embeddings, strict=True):
                looks[key] = Look(embedding=embedding, contrast=grey)
        return looks, broken

    def _prepared(self, sample: Sample) -> tuple[str, tuple[torch.Tensor, float] | str]:
        """Return what CLIP sees of an image and its contrast, or what is wrong with it."""
        try:
            image = decode_rgb(sample.image)
        except UnreadableImageError as error:
            return sample.key, str(error)
        return sample.key, (self.clip.pixels([image])[0], contrast(image))

    def _judged_source(self, sample: Sample, look: Look | None, texts: "Texts") -> Sample:
        scores = {
            "text_source": cosine(look.embedding, texts[sample.caption]) if look is not None else math.nan,
            "contrast": look.contrast if look is not None else math.nan,
        }
        return replace(sample, scores={**sample.scores, **scores}, provenance=self._provenance(sample))

    def _judged(self, sample: Sample, edit: Edit, look: Look, source: Look, texts: "Texts") -> Sample:
        scores = edit_scores(sample.caption, edit, look, source, texts)
        return replace(
            sample,
            scores={**sample.scores, **scores},
            verdict=verdict_of(scores, self.config, text_changes=edit.caption != sample.caption),
            provenance=self._provenance(sample),
        )

    def _provenance(self, sample: Sample) -> dict[str, Json]:
        return {**sample.provenance, self.name: {"model": self.clip.provenance}}


def edit_scores(caption: str, edit: Edit, look: Look, source: Look, texts: "Texts") -> dict[str, float]:
    """Return the scores of an edit beside its source, whose caption is given; NaN where one is undefined."""
    old, new = texts[caption], texts[edit.caption]
    text_changes = edit.caption != caption
    towards = cosine(look.embedding, texts[edit.after]) - cosine(look.embedding, texts[edit.before])
    return {
        "image": cosine(source.embedding, look.embedding),
        "text_source": cosine(source.embedding, old),
        "text_edit": cosine(look.embedding, new),
        "directional": directional(source.embedding, look.embedding, old, new) if text_changes else math.nan,
        "consistency": towards if text_changes else math.nan,
        "contrast": look.contrast,
    }


class Texts:
    """Embed every text of a batch once; a text that is empty has the embedding NaN."""

    def __init__(self, clip: Clip, batch: Sequence[Sample]) -> None:
        edits = [sample.edit for sample in batch if sample.edit is not None]
        wanted = {sample.caption for sample in batch}
        wanted.update(text for edit in edits for text in (edit.caption, edit.before, edit.after))
        self._embeddings = clip.texts(sorted(wanted - {""}))

    def __getitem__(self, text: str) -> NDArray[np.float32]:
        """Return the embedding of one text of the batch."""
        return self._embeddings[text] if text else np.full(1, np.nan, dtype=np.float32)


def cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """Return the cosine of two vectors of length 1."""
    return float((left * right).sum())


def directional(
    source: NDArray[np.float32], edit: NDArray[np.float32], old: NDArray[np.float32], new: NDArray[np.float32]
) -> float:
    """Return the cosine between the change of the image and the change of the text, NaN where one did not change.

    All four embeddings have length 1. StyleGAN-NADA (Gal et al. 2021), eq. 2.
    """
    image_change, text_change = edit - source, new - old
    length = float(np.linalg.norm(image_change) * np.linalg.norm(text_change))
    return float((image_change * text_change).sum()) / length if length > 0 else math.nan


def contrast(image: Image.Image) -> float:
    """Return the standard deviation of an image's grey values in [0, 1]: 0 where it is blank or black."""
    return float(np.asarray(image.convert("L"), dtype=np.float64).std() / 255)
