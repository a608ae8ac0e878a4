"""The signals of a verifier by its settings, their models loaded."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import assert_never

import torch

from actors.verifier.signals.clip import Clip
from actors.verifier.signals.clip_similarity import ClassPrompts, ClipSimilarity
from actors.verifier.signals.contrast import Contrast
from actors.verifier.signals.signal import Signal
from engine.runfile.signals import (
    AnySignalConfig,
    ClassifierSignal,
    ClipSignal,
    DescriptionSignal,
    DiffusionSignal,
    LocalitySignal,
    SpectrumSignal,
    VisionSignal,
)
from engine.runfile.verifier import VerifierConfig

# By class the words that name it.
Words = Mapping[str, Sequence[str]]


def own_signals(
    config: VerifierConfig, device: torch.device, *, offline: bool, words: Words = MappingProxyType({})
) -> tuple[Signal, ...]:
    """Return the verifier's own signals: CLIP's similarities where it has a model, and contrast."""
    if config.model is None:
        return (Contrast(),)
    clip = Clip(config.model, device, batch_size=config.batch_size, offline=offline)
    prompts = None if config.min_class is None else ClassPrompts(templates=config.templates, words=words)
    return ClipSimilarity(clip, prompts), Contrast()


def make_signal(
    name: str,
    settings: AnySignalConfig,
    config: VerifierConfig,
    device: torch.device,
    *,
    offline: bool,
    classes: Sequence[str],
    words: Words,
) -> Signal:
    """Return one of a verifier's `signals`."""
    size = config.batch_size
    match settings:
        case ClipSignal():
            clip = Clip(settings.model, device, batch_size=size, offline=offline)
            prompts = ClassPrompts(templates=settings.templates, words=words) if settings.templates else None
            return ClipSimilarity(clip, prompts, name=name, classes=classes)
        case VisionSignal():
            from actors.verifier.signals.vision import Vision

            return Vision(name, settings, device, batch_size=size, offline=offline)
        case ClassifierSignal():
            from actors.verifier.signals.classifier import RefusedLabels

            return RefusedLabels(name, settings, device, batch_size=size, offline=offline)
        case DescriptionSignal():
            from actors.verifier.signals.description import Description

            placement = config.placement
            return Description(
                name, settings, device, placement=placement, batch_size=size, offline=offline, words=words
            )
        case SpectrumSignal():
            from actors.verifier.signals.spectrum import Spectrum

            return Spectrum(name)
        case LocalitySignal():
            from actors.verifier.signals.locality import Locality

            return Locality(name)
        case DiffusionSignal():
            from actors.verifier.signals.diffusion import Diffusion

            return Diffusion(name, settings, device, offline=offline, classes=classes, words=words)
        case _:
            assert_never(settings)
