"""Adam on a tensor (Kingma & Ba 2015, algorithm 1), stored so often that it goes on where it was interrupted."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import torch
from safetensors import safe_open
from safetensors.torch import save

# Of Adam's moments, and what keeps its step finite.
BETAS, EPSILON = (0.9, 0.99), 1e-12

Loss = Callable[[str, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Steps made in all, those made by this process and its seconds, and the mean loss since the last report."""

    step: int
    num_made: int
    seconds: float
    loss: float


@dataclass(kw_only=True)
class TrainingState:
    """The values that are learned and Adam's moments of them, all of one shape, float32, after `step` steps.

    `seconds` are those of all processes that worked on it.
    """

    values: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    step: int = 0
    seconds: float = 0.0


class Training:
    """Learn values that begin as `start` by `loss`, which gets the name of a step and the values.

    `learning_rate` falls to 0 along half a cosine. `restrict` brings the values back to where they may be.
    """

    def __init__(
        self,
        start: torch.Tensor,
        loss: Loss,
        *,
        num_steps: int,
        learning_rate: float,
        restrict: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self._loss, self._num_steps, self._rate, self._restrict = loss, num_steps, learning_rate, restrict
        none = torch.zeros_like(start)
        self.state = TrainingState(values=start, first=none, second=none)

    def steps(self, checkpoint: Path, digest: str, every: int) -> Iterator[Progress]:
        """Make the steps that are left and yield the progress every so many, when the state is stored.

        It goes on from a checkpoint with this digest, and starts anew beside one with another. The same settings give
        the same values on one machine, interrupted or not.
        """
        self._resume(checkpoint, digest)
        began, before, first = monotonic(), self.state.seconds, self.state.step
        losses: list[float] = []
        while (step := self.state.step) < self._num_steps:
            losses.append(self._step())
            if (step + 1) % every == 0 or step + 1 == self._num_steps:
                seconds = monotonic() - began
                self.state.seconds = before + seconds
                self._save(checkpoint, digest)
                yield Progress(
                    step=step + 1, num_made=step + 1 - first, seconds=seconds, loss=sum(losses) / len(losses)
                )
                losses.clear()

    def _step(self) -> float:
        state = self.state
        values = state.values.clone().requires_grad_()
        loss = self._loss(f"step/{state.step}", values)
        (gradient,) = torch.autograd.grad(loss, values)
        state.step += 1
        state.first = torch.lerp(gradient, state.first, BETAS[0])
        state.second = torch.lerp(gradient.square(), state.second, BETAS[1])
        mean, square = state.first / (1 - BETAS[0] ** state.step), state.second / (1 - BETAS[1] ** state.step)
        rate = self._rate * 0.5 * (1 + math.cos(math.pi * state.step / self._num_steps))
        moved = state.values - rate * mean / (square.sqrt() + EPSILON)
        state.values = moved if self._restrict is None else self._restrict(moved)
        return loss.item()

    def _resume(self, checkpoint: Path, digest: str) -> None:
        if not checkpoint.is_file():
            return
        with safe_open(checkpoint, framework="pt", device=str(self.state.values.device)) as file:
            about = file.metadata() or {}
            if about.get("digest") != digest:
                return
            tensors = {name: file.get_tensor(name) for name in ("values", "first", "second")}
        self.state = TrainingState(**tensors, step=int(about["step"]), seconds=float(about["seconds"]))

    def _save(self, checkpoint: Path, digest: str) -> None:
        state = self.state
        tensors = {"values": state.values, "first": state.first, "second": state.second}
        about = {"digest": digest, "step": str(state.step), "seconds": str(state.seconds)}
        partial = checkpoint.with_suffix(".partial")
        partial.write_bytes(save({name: each.cpu().contiguous() for name, each in tensors.items()}, metadata=about))
        partial.rename(checkpoint)
