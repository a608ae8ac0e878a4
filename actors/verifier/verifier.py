"""The verifier stage: the scores of its signals for every image, and a verdict for every edit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch

from actors.images.codec import UnreadableImageError, decode_rgb
from actors.models.batching import prepared_batches
from actors.models.device import num_readers
from actors.verifier.signals.clip import Clip
from actors.verifier.signals.clip_similarity import ClipSimilarity
from actors.verifier.signals.contrast import Contrast
from actors.verifier.signals.signal import Scores, Seen, Signal, edit_scores, see_images
from engine.runfile.fields import ModelConfig
from engine.runfile.verifier import VerifierConfig
from engine.sample import Json, Rejection, Sample
from engine.verdicts.rule import verdict_of


def make_signals(
    model: ModelConfig,
    device: torch.device,
    *,
    batch_size: int,
    offline: bool,
    words: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Signal, ...]:
    """Return the signals of a verifier whose CLIP is `model`, loaded; with `words` it asks for the class."""
    return ClipSimilarity(Clip(model, device, batch_size=batch_size, offline=offline), words), Contrast()


class Verifier:
    """Add scores to every sample and a verdict to every edit; nothing is dropped.

    Scores are of the stored bytes, NaN where one is undefined. The classifier under test has no say. `words` are those
    that name a class in captions, where its own name does not.
    """

    def __init__(
        self,
        config: VerifierConfig,
        device: torch.device,
        *,
        name: str,
        offline: bool,
        words: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        self.config, self.name = config, name
        asked = None if config.min_class is None else words
        self.signals = make_signals(config.model, device, batch_size=config.batch_size, offline=offline, words=asked)
        self._record: dict[str, Json] = {}
        for signal in self.signals:
            self._record.update(signal.provenance)
        self._num_readers = num_readers(config.placement)

    def __call__(self, batch: Sequence[Sample]) -> Iterator[Sample | Rejection]:
        """Yield each sample with scores, each edit with a verdict; a Rejection for bytes that are no image."""
        seen, broken = self._see([sample for sample in batch if sample.image])
        for signal in self.signals:
            signal.begin(batch)
        for sample in batch:
            own, source = seen.get(sample.key), seen.get(sample.source_key)
            if sample.role == "source":
                scores: Scores = {}
                if own is not None:
                    for signal, part in zip(self.signals, own, strict=True):
                        scores |= signal.source_scores(sample, part)
                yield self._scored(sample, scores)
            elif own is None:
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
                scores = edit_scores(self.signals, sample, own, source)
                text_changes = sample.edit.caption != sample.caption
                verdict = verdict_of(scores, self.config, text_changes=text_changes)
                yield replace(self._scored(sample, scores), verdict=verdict)

    def _see(self, samples: Sequence[Sample]) -> tuple[dict[str, Seen], dict[str, str]]:
        """Return by key what the signals see, and what is wrong with bytes that are no image."""
        found: dict[str, Seen] = {}
        broken: dict[str, str] = {}
        for batch in prepared_batches(samples, self.config.batch_size, self._prepared, self._num_readers):
            broken.update((key, prepared) for key, prepared in batch if isinstance(prepared, str))
            good = {key: prepared for key, prepared in batch if not isinstance(prepared, str)}
            found.update(zip(good, see_images(self.signals, list(good.values())), strict=True))
        return found, broken

    def _prepared(self, sample: Sample) -> tuple[str, tuple[Any, ...] | str]:
        """Return what each signal needs of an image, or what is wrong with it."""
        try:
            image = decode_rgb(sample.image)
        except UnreadableImageError as error:
            return sample.key, str(error)
        return sample.key, tuple(signal.prepare(image) for signal in self.signals)

    def _scored(self, sample: Sample, scores: Scores) -> Sample:
        return replace(
            sample,
            scores={**sample.scores, **scores},
            provenance={**sample.provenance, self.name: self._record},
        )
