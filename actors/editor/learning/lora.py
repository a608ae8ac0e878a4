"""Learn a low-rank adapter of a UNet's attention (Hu et al. 2021) from edited pictures.

As a slider of strength, scaled at will: Gandikota et al. 2023, "Concept Sliders", and CNS-Bench (2025), which learn
theirs from words and from pairs too.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from actors.editor.learning.denoising import DenoisingLoss
from actors.editor.learning.pairs import LearningPairs
from actors.editor.learning.training import Training
from actors.models.low_rank import Factors, LowRankAdapters, ScaledAdapter
from actors.models.untyped import Model, Pipeline
from engine.runfile.fields import ModelConfig

# The projections of attention, as diffusers names them.
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
NAME = "learned"


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """How a LoRA of `rank` is learned, with `start` in place of the value in the texts.

    `learning_rate` is Adam's, in units of a factor's numbers; it falls to 0 along half a cosine.
    """

    start: str
    rank: int
    num_steps: int
    seed: int
    batch_size: int = 8
    learning_rate: float = 0.003


class LoraTraining:
    """Learn the factors of a LoRA of a pipeline's UNet: A begins at random, B at 0, so that it begins as nothing."""

    def __init__(self, pipeline: Pipeline, model: ModelConfig, pairs: LearningPairs, settings: LoraSettings) -> None:
        self._loss = DenoisingLoss(pipeline, model, pairs, seed=settings.seed, batch_size=settings.batch_size)
        self._adapters = LowRankAdapters(pipeline.unet)
        self._shapes = dict(_shapes(pipeline.unet, settings.rank))
        self.training = Training(
            self._start(settings.seed).to(pipeline.device),
            self._loss_with,
            num_steps=settings.num_steps,
            learning_rate=settings.learning_rate,
        )

    @property
    def factors(self) -> Factors:
        """Return A (rank, in) and B (out, rank) of each layer, float32."""
        return self._split(self.training.state.values)

    def loss_of(self, factors: Factors | None, *, own_text: bool = False) -> float:
        """Return the loss on noise that is the same for all: with factors or without, with the value itself or not."""
        if factors is None:
            return self._loss.compared(own_text=own_text)
        self._adapters.put(NAME, factors)
        with self._adapters.rows([ScaledAdapter(name=NAME, scale=1.0)]):
            return self._loss.compared(own_text=own_text)

    def _loss_with(self, turn: str, values: torch.Tensor) -> torch.Tensor:
        self._adapters.put(NAME, self._split(values))
        with self._adapters.rows([ScaledAdapter(name=NAME, scale=1.0)]):
            return self._loss(turn)

    def _start(self, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        parts: list[torch.Tensor] = []
        for down, up in self._shapes.values():
            # A row of A gives what a layer gets, of variance 1, variance 1.
            parts += [torch.randn(down, generator=generator).flatten() / math.sqrt(down[1]), torch.zeros(up).flatten()]
        return torch.cat(parts)

    def _split(self, values: torch.Tensor) -> Factors:
        sizes = [math.prod(shape) for pair in self._shapes.values() for shape in pair]
        parts = iter(torch.split(values, sizes))
        return {
            layer: (next(parts).reshape(down), next(parts).reshape(up)) for layer, (down, up) in self._shapes.items()
        }


def _shapes(unet: Model, rank: int) -> Iterator[tuple[str, tuple[tuple[int, int], tuple[int, int]]]]:
    """Yield the shapes of A and B of each projection of attention, by its name in the UNet."""
    for name, layer in unet.named_modules():
        if isinstance(layer, nn.Linear) and name.endswith(tuple(f".{each}" for each in PROJECTIONS)):
            yield name, ((rank, layer.in_features), (layer.out_features, rank))
