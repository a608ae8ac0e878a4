"""Textual inversion: learn the vectors of a new word (Gal et al. 2022, "An Image is Worth One Word", section 4).

Only the word's rows of the text encoder's input embeddings are learned. The loss is the editor's own: the mean squared
error of what its UNet predicts from the noised edited picture, its source and the text.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save

from actors.editor.learning.pairs import LearningPairs
from actors.models.device import precision, upload
from actors.models.untyped import Model, Pipeline
from engine.runfile.fields import ModelConfig
from engine.sample import content_seed

# Of Adam's moments, and what keeps its step finite.
BETAS, EPSILON = (0.9, 0.99), 1e-12
# Batches of noise on which words are compared.
NUM_COMPARED = 16


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


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Steps made in all, those made by this process and its seconds, and the mean loss since the last report."""

    step: int
    num_made: int
    seconds: float
    loss: float


@dataclass(kw_only=True)
class WordState:
    """Unit vectors and Adam's moments of them, all (num_vectors, width) float32, after `step` steps.

    `seconds` are those of all processes that worked on it.
    """

    directions: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    step: int = 0
    seconds: float = 0.0


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
        self._pipeline, self._model, self._ids = pipeline, model, ids
        self.pairs, self.settings = pairs, settings
        self._norms = start.norm(dim=1, keepdim=True)
        none = torch.zeros_like(start)
        self.state = WordState(directions=start / self._norms, first=none, second=none)
        for part in (pipeline.unet, pipeline.text_encoder):
            part.requires_grad_(False)

    @property
    def vectors(self) -> torch.Tensor:
        """Return the vectors, (num_vectors, width) float32, each with the norm that it started with."""
        return torch.as_tensor(self.state.directions * self._norms)

    def learn(self, checkpoint: Path, digest: str, every: int) -> Iterator[Progress]:
        """Make the steps that are left and yield the progress every so many, when the state is stored.

        It goes on from a checkpoint with this digest, and starts anew beside one with another. The same settings give
        the same vectors on one machine, interrupted or not.
        """
        self._resume(checkpoint, digest)
        began, before, first = monotonic(), self.state.seconds, self.state.step
        losses: list[float] = []
        while (step := self.state.step) < self.settings.num_steps:
            losses.append(self._step())
            if (step + 1) % every == 0 or step + 1 == self.settings.num_steps:
                seconds = monotonic() - began
                self.state.seconds = before + seconds
                self._save(checkpoint, digest)
                yield Progress(
                    step=step + 1, num_made=step + 1 - first, seconds=seconds, loss=sum(losses) / len(losses)
                )
                losses.clear()

    def loss_of(self, vectors: torch.Tensor | None) -> float:
        """Return the loss on noise that is the same for all words: with `vectors`, or with the value itself (None)."""
        with torch.no_grad():
            return float(np.mean([self._loss(f"compared/{turn}", vectors).item() for turn in range(NUM_COMPARED)]))

    def _step(self) -> float:
        """Make one step of Adam (Kingma & Ba 2015, algorithm 1) on the directions, which stay unit vectors."""
        state, settings = self.state, self.settings
        directions = state.directions.clone().requires_grad_()
        loss = self._loss(f"step/{state.step}", F.normalize(directions, dim=1) * self._norms)
        (gradient,) = torch.autograd.grad(loss, directions)
        state.step += 1
        state.first = torch.lerp(gradient, state.first, BETAS[0])
        state.second = torch.lerp(gradient.square(), state.second, BETAS[1])
        mean, square = state.first / (1 - BETAS[0] ** state.step), state.second / (1 - BETAS[1] ** state.step)
        rate = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * state.step / settings.num_steps))
        # Each number moves by about as much, and a vector by the root of their count times that.
        moved = state.directions - rate / math.sqrt(directions.shape[1]) * mean / (square.sqrt() + EPSILON)
        state.directions = F.normalize(moved, dim=1)
        return loss.item()

    def _loss(self, turn: str, vectors: torch.Tensor | None) -> torch.Tensor:
        """Return the loss on the pairs, times and noise that a turn draws; its text has the value where no vectors."""
        scheduler, pairs, device = self._pipeline.scheduler, self.pairs, self._pipeline.device
        generator = torch.Generator().manual_seed(content_seed(self.settings.seed, turn))
        rows = torch.randint(len(pairs), (self.settings.batch_size,), generator=generator)
        times = torch.randint(scheduler.config.num_train_timesteps, rows.shape, generator=generator)
        clean = pairs.edited[rows]
        noise = torch.randn(clean.shape, generator=generator)
        share = scheduler.alphas_cumprod.cpu()[times][:, None, None, None]
        noisy, wanted = share.sqrt() * clean + (1 - share).sqrt() * noise, noise
        match scheduler.config.prediction_type:
            case "v_prediction":
                wanted = share.sqrt() * noise - (1 - share).sqrt() * clean
            case "sample":
                wanted = clean
        if pairs.conditions is not None:
            noisy = torch.cat([noisy, pairs.conditions[rows]], 1)
        tokens = (pairs.own_tokens if vectors is None else pairs.tokens)[rows]
        unet = self._pipeline.unet
        with precision(self._model, device):
            text = self._embedded(tokens.to(device), vectors).to(unet.dtype)
            predicted = unet(upload(noisy, device).to(unet.dtype), times.to(device), text).sample
        return F.mse_loss(predicted.float(), upload(wanted, device))

    def _embedded(self, tokens: torch.Tensor, vectors: torch.Tensor | None) -> torch.Tensor:
        """Return the embedding of tokens, (num_rows, length, width), `vectors` standing for those of the word."""

        def with_vectors(_: Model, arguments: tuple[torch.Tensor, ...], found: torch.Tensor) -> torch.Tensor:
            for each, vector in zip(self._ids, () if vectors is None else vectors, strict=vectors is not None):
                found = torch.where((arguments[0] == each)[..., None], vector.to(found.dtype), found)
            return found

        encoder = self._pipeline.text_encoder
        handle = encoder.get_input_embeddings().register_forward_hook(with_vectors)
        mask = torch.ones_like(tokens) if getattr(encoder.config, "use_attention_mask", False) else None
        try:
            return torch.as_tensor(encoder(tokens, attention_mask=mask)[0])
        finally:
            handle.remove()

    def _resume(self, checkpoint: Path, digest: str) -> None:
        if not checkpoint.is_file():
            return
        with safe_open(checkpoint, framework="pt", device=str(self._norms.device)) as file:
            about = file.metadata() or {}
            if about.get("digest") != digest:
                return
            tensors = {name: file.get_tensor(name) for name in ("directions", "first", "second")}
        self.state = WordState(**tensors, step=int(about["step"]), seconds=float(about["seconds"]))

    def _save(self, checkpoint: Path, digest: str) -> None:
        state = self.state
        tensors = {"directions": state.directions, "first": state.first, "second": state.second}
        about = {"digest": digest, "step": str(state.step), "seconds": str(state.seconds)}
        partial = checkpoint.with_suffix(".partial")
        partial.write_bytes(save({name: each.cpu().contiguous() for name, each in tensors.items()}, metadata=about))
        partial.rename(checkpoint)
