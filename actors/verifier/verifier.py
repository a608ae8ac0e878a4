"""The verifier stage: the scores of its signals for every image, and a verdict for every edit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, assert_never

import torch

from actors.images.codec import UnreadableImageError, decode_rgb
from actors.models.batching import prepared_batches
from actors.models.device import num_readers
from actors.verifier.signals.clip import Clip
from actors.verifier.signals.clip_similarity import ClipSimilarity
from actors.verifier.signals.contrast import Contrast
from actors.verifier.signals.signal import Scores, Seen, Signal, edit_scores, see_images
from engine.runfile.signals import AnySignalConfig, ClassifierSignal, ClipSignal, SpectrumSignal, VisionSignal
from engine.runfile.verifier import VerifierConfig
from engine.sample import Json, Rejection, Sample
from engine.verdicts.rule import passes_so_far, verdict_of


def make_signals(
    config: VerifierConfig,
    device: torch.device,
    *,
    offline: bool,
    words: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> tuple[Signal, ...]:
    """Return the verifier's own signals: CLIP's similarities where it has a model, loaded, and contrast."""
    if config.model is None:
        return (Contrast(),)
    clip = Clip(config.model, device, batch_size=config.batch_size, offline=offline)
    return ClipSimilarity(clip, None if config.min_class is None else words), Contrast()


def make_signal(
    name: str, settings: AnySignalConfig, device: torch.device, *, batch_size: int, offline: bool
) -> Signal:
    """Return a signal of the run file, its model loaded."""
    match settings:
        case ClipSignal():
            return ClipSimilarity(Clip(settings.model, device, batch_size=batch_size, offline=offline), name=name)
        case VisionSignal():
            from actors.verifier.signals.vision import Vision

            return Vision(name, settings, device, batch_size=batch_size, offline=offline)
        case ClassifierSignal():
            from actors.verifier.signals.classifier import RefusedLabels

            return RefusedLabels(name, settings, device, batch_size=batch_size, offline=offline)
        case SpectrumSignal():
            from actors.verifier.signals.spectrum import Spectrum

            return Spectrum(name)
        case _:
            assert_never(settings)


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
        own = make_signals(config, device, offline=offline, words=words)
        self._record: dict[str, Json] = {}
        for signal in own:
            self._record.update(signal.provenance)
        added = {
            each: make_signal(each, settings, device, batch_size=config.batch_size, offline=offline)
            for each, settings in config.signals.items()
        }
        if added:
            self._record["signals"] = {each: dict(signal.provenance) for each, signal in added.items()}
        is_dear = {each: settings.asked_of == "passing" for each, settings in config.signals.items()}
        self.signals = *own, *(signal for each, signal in added.items() if not is_dear[each])
        self._dear = tuple(signal for each, signal in added.items() if is_dear[each])
        self._num_readers = num_readers(config.placement)

    def __call__(self, batch: Sequence[Sample]) -> Iterator[Sample | Rejection]:
        """Yield each sample with scores, each edit with a verdict; a Rejection for bytes that are no image."""
        pictures = {sample.key: sample for sample in batch if sample.image}
        placebos = {_control_of(sample): sample.key for sample in batch if sample.role == "placebo"}
        for signal in (*self.signals, *self._dear):
            signal.begin(batch)
        seen, broken = self._see(self.signals, list(pictures.values()))
        scores = {sample.key: _scores(self.signals, sample, seen, placebos) for sample in batch if sample.key in seen}
        if self._dear:
            self._ask_dear([sample for sample in batch if sample.key in seen], pictures, placebos, scores)
        for sample in batch:
            if sample.role == "source":
                yield self._scored(sample, scores.get(sample.key, {}))
            elif sample.key not in seen:
                detail = broken.get(sample.key, "no stage has made an image for this edit")
                yield Rejection.of(
                    sample, stage=self.name, reason="unreadable_image" if sample.image else "no_image", detail=detail
                )
            elif sample.source_key not in seen or sample.edit is None:
                yield Rejection.of(
                    sample,
                    stage=self.name,
                    reason="no_source_image",
                    detail="its source did not come along, or is unreadable",
                )
            else:
                verdict = verdict_of(scores[sample.key], self.config, text_changes=_text_changes(sample))
                yield replace(self._scored(sample, scores[sample.key]), verdict=verdict)

    def _ask_dear(
        self,
        samples: Sequence[Sample],
        pictures: Mapping[str, Sample],
        placebos: Mapping[tuple[str, str], str],
        scores: Mapping[str, Scores],
    ) -> None:
        """Add the scores of dear signals to those of edits that pass all else."""
        asked = [
            sample
            for sample in samples
            if sample.source_key in scores
            and sample.role != "source"
            and passes_so_far(scores[sample.key], self.config, text_changes=_text_changes(sample))
        ]
        wanted = {sample.source_key for sample in asked} | {sample.key for sample in asked}
        wanted |= {placebos[control] for sample in asked if (control := _control_of(sample)) in placebos}
        # A placebo that cannot be read has no scores.
        seen, _ = self._see(self._dear, [pictures[key] for key in pictures if key in wanted and key in scores])
        for sample in asked:
            scores[sample.key].update(_scores(self._dear, sample, seen, placebos))

    def _see(self, signals: Sequence[Signal], samples: Sequence[Sample]) -> tuple[dict[str, Seen], dict[str, str]]:
        """Return by key what signals see, and what is wrong with bytes that are no image."""
        found: dict[str, Seen] = {}
        broken: dict[str, str] = {}
        prepare = partial(_prepared, signals)
        for batch in prepared_batches(samples, self.config.batch_size, prepare, self._num_readers):
            broken.update((key, prepared) for key, prepared in batch if isinstance(prepared, str))
            good = {key: prepared for key, prepared in batch if not isinstance(prepared, str)}
            found.update(zip(good, see_images(signals, list(good.values())), strict=True))
        return found, broken

    def _scored(self, sample: Sample, scores: Scores) -> Sample:
        return replace(
            sample,
            scores={**sample.scores, **scores},
            provenance={**sample.provenance, self.name: self._record},
        )


def _scores(
    signals: Sequence[Signal], sample: Sample, seen: Mapping[str, Seen], placebos: Mapping[tuple[str, str], str]
) -> Scores:
    """Return a sample's scores; none of an edit whose source was not seen."""
    own, source = seen[sample.key], seen.get(sample.source_key)
    if sample.role == "source":
        scores: Scores = {}
        for signal, part in zip(signals, own, strict=True):
            scores |= signal.source_scores(sample, part)
        return scores
    if source is None or sample.edit is None:
        return {}
    placebo = None if sample.role == "placebo" else seen.get(placebos.get(_control_of(sample), ""))
    return edit_scores(signals, sample, own, source, placebo)


def _control_of(sample: Sample) -> tuple[str, str]:
    """Return what a placebo and its edits have in common: their source, and who draws them."""
    return sample.source_key, sample.edit.strategy if sample.edit is not None else ""


def _text_changes(sample: Sample) -> bool:
    return sample.edit is not None and sample.edit.caption != sample.caption


def _prepared(signals: Sequence[Signal], sample: Sample) -> tuple[str, tuple[Any, ...] | str]:
    """Return what each signal needs of an image, or what is wrong with it."""
    try:
        image = decode_rgb(sample.image)
    except UnreadableImageError as error:
        return sample.key, str(error)
    return sample.key, tuple(signal.prepare(image) for signal in signals)
