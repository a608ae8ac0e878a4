"""The verifier stage: the scores of its signals for every image, and a verdict for every edit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch

from actors.images.codec import UnreadableImageError, decode_rgb
from actors.models.batching import prepared_batches
from actors.models.device import num_readers
from actors.verifier.signals.make import make_signal, own_signals
from actors.verifier.signals.signal import Scores, Seen, Signal, edit_scores, see_images
from engine.runfile.verifier import VerifierConfig
from engine.sample import Json, Rejection, Sample
from engine.verdicts.rule import passes_so_far, verdict_of


class Verifier:
    """Add scores to every sample and a verdict to every edit; nothing is dropped.

    Scores are of the stored bytes, NaN where one is undefined. The classifier under test has no say. `classes` are the
    run's; `words` are those that name one in captions, where its own name does not.
    """

    def __init__(
        self,
        config: VerifierConfig,
        device: torch.device,
        *,
        name: str,
        offline: bool,
        classes: Sequence[str] = (),
        words: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        self.config, self.name = config, name
        own = own_signals(config, device, offline=offline, words=words)
        added = {
            each: make_signal(each, settings, config, device, offline=offline, classes=classes, words=words)
            for each, settings in config.signals.items()
        }
        self._record: dict[str, Json] = {}
        for signal in own:
            self._record.update(signal.provenance)
        # A table has no column for a record without a field.
        records: dict[str, Json] = {each: {**signal.provenance} for each, signal in added.items() if signal.provenance}
        if records:
            self._record["signals"] = records
        dear = {each for each, settings in config.signals.items() if settings.asked_of == "passing"}
        asked_of_all = *own, *(signal for each, signal in added.items() if each not in dear)
        self._looks = [
            Look(signals, config.batch_size, num_readers(config.placement))
            for signals in (asked_of_all, tuple(added[each] for each in added if each in dear))
        ]

    def __call__(self, batch: Sequence[Sample]) -> Iterator[Sample | Rejection]:
        """Yield each sample with scores, each edit with a verdict; a Rejection for bytes that are no image."""
        first, dear = self._looks
        broken = first.see(batch, [sample for sample in batch if sample.image])
        scores = {sample.key: first.scores(sample) for sample in batch if sample.key in first.seen}
        passing = [sample for sample in batch if self._passes_so_far(sample, scores)] if dear.signals else []
        wanted = {sample.key for sample in passing} | {sample.source_key for sample in passing}
        wanted |= {placebo for sample in passing if (placebo := first.placebos.get(sample.control))}
        dear.see(batch, [sample for sample in batch if sample.key in wanted and sample.key in first.seen])
        for sample in passing:
            scores[sample.key] |= dear.scores(sample)
        for sample in batch:
            if sample.role == "source":
                yield self._scored(sample, scores.get(sample.key, {}))
            elif sample.key not in scores:
                detail = broken.get(sample.key, "no stage has made an image for this edit")
                yield Rejection.of(
                    sample, stage=self.name, reason="unreadable_image" if sample.image else "no_image", detail=detail
                )
            elif sample.source_key not in scores or sample.edit is None:
                yield Rejection.of(
                    sample,
                    stage=self.name,
                    reason="no_source_image",
                    detail="its source did not come along, or is unreadable",
                )
            else:
                verdict = verdict_of(scores[sample.key], self.config, text_changes=_text_changes(sample))
                notes = {**first.notes(sample), **dear.notes(sample)}
                yield replace(self._scored(sample, scores[sample.key]), verdict=replace(verdict, notes=notes))

    def _passes_so_far(self, sample: Sample, scores: Mapping[str, Scores]) -> bool:
        """Return whether a dear signal is asked of a sample: of an edit that was seen and passes all else."""
        if sample.role == "source" or not {sample.key, sample.source_key} <= scores.keys():
            return False
        return passes_so_far(scores[sample.key], self.config, text_changes=_text_changes(sample))

    def _scored(self, sample: Sample, scores: Scores) -> Sample:
        return replace(
            sample,
            scores={**sample.scores, **scores},
            provenance={**sample.provenance, self.name: self._record},
        )


@dataclass
class Look:
    """What some signals see of a shard: by key of each image, and of each source and strategy the placebo's key."""

    signals: tuple[Signal, ...]
    batch_size: int
    num_readers: int

    def see(self, batch: Sequence[Sample], shown: Sequence[Sample]) -> dict[str, str]:
        """Look at the images of samples of a shard in place of those before; return what is wrong with broken ones."""
        self.placebos = {sample.control: sample.key for sample in batch if sample.role == "placebo"}
        self.seen: dict[str, Seen] = {}
        broken: dict[str, str] = {}
        if not shown:
            return broken
        for signal in self.signals:
            signal.begin(batch)
        for part in prepared_batches(shown, self.batch_size, self._prepared, self.num_readers):
            broken.update((key, prepared) for key, prepared in part if isinstance(prepared, str))
            good = {key: prepared for key, prepared in part if not isinstance(prepared, str)}
            self.seen.update(zip(good, see_images(self.signals, list(good.values())), strict=True))
        return broken

    def scores(self, sample: Sample) -> Scores:
        """Return the scores of a sample that was seen; none of an edit whose source was not."""
        own, source = self.seen[sample.key], self.seen.get(sample.source_key)
        if sample.role == "source":
            scores: Scores = {}
            for signal, part in zip(self.signals, own, strict=True):
                scores |= signal.source_scores(sample, part)
            return scores
        if source is None or sample.edit is None:
            return {}
        placebo = None if sample.role == "placebo" else self.seen.get(self.placebos.get(sample.control, ""))
        return edit_scores(self.signals, sample, own, source, placebo)

    def notes(self, sample: Sample) -> dict[str, str]:
        """Return what signals say of a sample in words, by their names."""
        parts = zip(self.signals, self.seen.get(sample.key, ()), strict=False)
        return dict(note for signal, part in parts if (note := signal.note(part)) is not None)

    def _prepared(self, sample: Sample) -> tuple[str, tuple[Any, ...] | str]:
        """Return what each signal needs of an image, or what is wrong with it."""
        try:
            image = decode_rgb(sample.image)
        except UnreadableImageError as error:
            return sample.key, str(error)
        return sample.key, tuple(signal.prepare(image) for signal in self.signals)


def _text_changes(sample: Sample) -> bool:
    return sample.edit is not None and sample.edit.caption != sample.caption
