"""The interface of a strategy: text and settings of an edit, the call of a diffusers pipeline, the steps in slots."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from actors.editor.strategies.latents import SourceLatents
from actors.models.untyped import Pipeline
from engine.sample import Edit

Scale = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class EditText:
    """The text of an edit. With `start` its embedding is `share` of the way from that of `start` to that of `text`."""

    text: str
    start: str | None = None
    share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class EditBatch:
    """The edits of one pipeline call, all of one severity.

    `images` are (num_rows, 3, size, size) in [0, 1], `masks` (num_rows, 1, size, size) in {0, 1}.
    """

    images: torch.Tensor
    texts: list[EditText]
    severity: float
    masks: torch.Tensor | None = None

    @property
    def prompts(self) -> list[str]:
        """Return the texts without where they start."""
        return [text.text for text in self.texts]


@dataclass(frozen=True, kw_only=True)
class GuidanceWeight:
    """The weight of one UNet output in a guided step, and its inputs: the edit's text or none, the source or zeros."""

    weight: float
    has_text: bool = True
    has_source: bool = True


class Strategy(Protocol):
    """Draw edits by calls of a diffusers pipeline."""

    @property
    def loader(self) -> str:
        """Return the name of the diffusers class that loads the pipeline."""
        ...

    @property
    def is_batched(self) -> bool:
        """Return whether a call of the pipeline takes several edits."""
        ...

    def text(self, edit: Edit) -> EditText:
        """Return the text that the model follows."""
        ...

    def settings(self, severity: float) -> dict[str, float]:
        """Return guidance scales, and the strength if there is one, at a severity in (0, 1]."""
        ...

    def supports_severity(self, pipeline: Pipeline) -> bool:
        """Return whether a severity below 1 makes an edit milder."""
        ...

    def arguments(self, pipeline: Pipeline, batch: EditBatch) -> dict[str, Any]:
        """Return the arguments of a pipeline call besides prompts, generators, size, settings and number of steps."""
        ...


@runtime_checkable
class SlotStrategy(Strategy, Protocol):
    """Draw edits in the slot batcher as well."""

    def guidance(self, severity: float) -> tuple[GuidanceWeight, ...]:
        """Return the outputs whose weighted sum is a guided step, at most as many as at severity 1."""
        ...

    def starts_from_noise(self, severity: float) -> bool:
        """Return whether an edit starts from noise alone, not from the noised latents of its source."""
        ...

    def condition(self, source: SourceLatents, scaled: Scale, generator: torch.Generator) -> torch.Tensor | None:
        """Return the UNet's input channels behind the latents, (channels, height, width); None if it has none.

        `scaled` takes latents of the autoencoder to those of the UNet.
        """
        ...


def text_guidance(scale: float) -> tuple[GuidanceWeight, ...]:
    """Return the weights of classifier-free guidance (Ho & Salimans 2022, eq. 6); at scale 1 the text alone."""
    if scale <= 1:
        return (GuidanceWeight(weight=1.0),)
    return GuidanceWeight(weight=1 - scale, has_text=False), GuidanceWeight(weight=scale)


def scaled_guidance(guidance_scale: float, severity: float) -> float:
    """Return the guidance scale at a severity, between 1 (no guidance) and the configured one."""
    return 1 + (guidance_scale - 1) * severity


def negative_prompts(prompt: str | None, count: int) -> dict[str, Any]:
    """Return the negative prompt of each row as an argument of a pipeline; nothing if there is none."""
    return {} if prompt is None else {"negative_prompt": [prompt] * count}


def true_guidance(scale: float, negative_prompt: str | None, count: int) -> dict[str, Any]:
    """Return classifier-free guidance as arguments of a pipeline whose guidance_scale is for distilled networks alone.

    These pipelines guide only where a negative prompt is given; a blank is Qwen's own.
    """
    if scale <= 1:
        return {"true_cfg_scale": 1.0}
    return {"true_cfg_scale": scale, "negative_prompt": [negative_prompt or " "] * count}
