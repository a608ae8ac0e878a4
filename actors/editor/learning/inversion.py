"""Textual inversion: learn the vectors of a new word (Gal et al. 2022, "An Image is Worth One Word", section 4).

Only the word's rows of the text encoder's input embeddings are learned.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from actors.editor.learning.denoising import DenoisingLoss
from actors.editor.learning.pairs import LearningPairs
from actors.editor.learning.training import Training
from actors.models.untyped import Model, Pipeline
from engine.runfile.fields import ModelConfig


@dataclass(frozen=True, kw_only=True)
class InversionSettings:
    """How a word is learned: `num_vectors` tokens that start as the tokens of `start`, with their norms to the end.

    `learning_rate` is the share of its norm that a vector moves in a step; it falls to 0 along half a cosine.
    """

    start: str
    num_vectors: int
    num_steps: int
    seed: int
    batch_size: int = 8
    learning_rate: float = 0.03


class Inversion:
    """Learn one word of a pipeline, whose tokens are `ids` and whose vectors begin as `start`."""

    def __init__(
        self,
        pipeline: Pipeline,
        model: ModelConfig,
        pairs: LearningPairs,
        settings: InversionSettings,
        *,
        ids: Sequence[int],
        start: torch.Tensor,
    ) -> None:
        self._pipeline, self._ids = pipeline, ids
        self._norms = start.norm(dim=1, keepdim=True)
        self._loss = DenoisingLoss(pipeline, model, pairs, seed=settings.seed, batch_size=settings.batch_size)
        self.training = Training(
            start / self._norms,
            lambda turn, directions: self._loss_with(turn, F.normalize(directions, dim=1) * self._norms),
            num_steps=settings.num_steps,
            # Each number moves by about as much, and a vector by the root of their count times that.
            learning_rate=settings.learning_rate / math.sqrt(start.shape[1]),
            restrict=lambda directions: F.normalize(directions, dim=1),
        )

    @property
    def vectors(self) -> torch.Tensor:
        """Return the vectors, (num_vectors, width) float32, each with the norm that it started with."""
        return torch.as_tensor(self.training.state.values * self._norms)

    def loss_of(self, vectors: torch.Tensor | None) -> float:
        """Return the loss on noise that is the same for all words: with `vectors`, or with the value itself (None)."""
        if vectors is None:
            return self._loss.compared(own_text=True)
        return self._loss.compared(embed=lambda tokens: self._embedded(tokens, vectors))

    def _loss_with(self, turn: str, vectors: torch.Tensor) -> torch.Tensor:
        return self._loss(turn, embed=lambda tokens: self._embedded(tokens, vectors))

    def _embedded(self, tokens: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """Return the embedding of tokens, (num_rows, length, width), `vectors` standing for those of the word."""

        def with_vectors(_: Model, arguments: tuple[torch.Tensor, ...], found: torch.Tensor) -> torch.Tensor:
            for each, vector in zip(self._ids, vectors, strict=True):
                found = torch.where((arguments[0] == each)[..., None], vector.to(found.dtype), found)
            return found

        handle = self._pipeline.text_encoder.get_input_embeddings().register_forward_hook(with_vectors)
        try:
            return self._loss.embed(tokens)
        finally:
            handle.remove()
