"""The loop that trains every model of the zoo: seeded, resumable, with an average of the weights."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from engine.errors import RunError

# (step, generator) -> (loss, numbers to log)
Loss = Callable[[int, torch.Generator], tuple[Tensor, dict[str, float]]]
LOG_EVERY = 20
SAVE_EVERY = 100


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long and how fast one model trains: AdamW, linear warm-up, cosine to 2 % of the learning rate."""

    name: str
    num_steps: int
    learning_rate: float
    weight_decay: float = 1e-4
    num_warmup_steps: int = 100
    ema_decay: float = 0.999
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainContext:
    """Where trainings run: the folder of checkpoints and logs, the device, the folder of Fashion-MNIST.

    `size` multiplies the width of every model of a run; the classifiers and the judge, which measure these, stay.
    """

    folder: Path
    device: torch.device
    fashion_mnist: Path
    size: int = 1

    def autocast(self) -> torch.autocast:
        """Return bf16 autocast for the device."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class ZooModel:
    """One model of the zoo: its recipe, how its training starts and, where it ships, how its folder is written.

    `start` returns the untrained model and its loss; `save` writes the last checkpoint and returns the step it is of.
    """

    recipe: Recipe
    start: Callable[[TrainContext], tuple[nn.Module, Loss]]
    save: Callable[[TrainContext, Path], int] | None = None


def train(recipe: Recipe, model: nn.Module, loss: Loss, context: TrainContext) -> nn.Module:
    """Train `model` in place, from its last checkpoint where there is one, and return it with the averaged weights."""
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
    )
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    checkpoint = context.folder / f"{recipe.name}.pt"
    step = _resume(checkpoint, model, optimizer, average)
    _train_what_is_not_frozen(model)
    start, first = time.monotonic(), step
    while step < recipe.num_steps:
        # One generator a step: a resumed training draws what an undisturbed one would have drawn.
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(recipe, step)
        with context.autocast():
            value, numbers = loss(step, generator)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        _average(average, model, min(recipe.ema_decay, step / (step + 9)))
        if step % LOG_EVERY == 0 or step == recipe.num_steps:
            rate = (time.monotonic() - start) / (step - first)
            _log(context, recipe, {"step": step, "loss": value.item(), "seconds_per_step": rate, **numbers})
        if step % SAVE_EVERY == 0 or step == recipe.num_steps:
            _save(
                checkpoint,
                {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average, "step": step},
            )
    model.load_state_dict(average)
    return model.eval()


def averaged(recipe: Recipe, model: nn.Module, context: TrainContext) -> int:
    """Load the averaged weights of the last checkpoint into `model`; return its step. Raises RunError without one."""
    checkpoint = context.folder / f"{recipe.name}.pt"
    if not checkpoint.exists():
        raise RunError(
            f"{checkpoint} is missing: train it first, `python -m actors.zoo.recipes.make --only {recipe.name}`"
        )
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model.load_state_dict(state["average"])
    model.eval()
    return int(state["step"])


def drawn_rows(seed: int, step: int, count: int, size: int) -> NDArray[np.int64]:
    """Return the rows of a step's batch among `count`, drawn with replacement and sorted, (size,)."""
    return np.sort(np.random.default_rng((seed, step)).integers(count, size=size))


def save_half(
    recipe: Recipe,
    model: PreTrainedModel,
    context: TrainContext,
    folder: Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> int:
    """Write the averaged weights of the last checkpoint in float16, and the tokenizer; return the checkpoint's step."""
    step = averaged(recipe, model, context)
    model.to(torch.float16).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return step


def _train_what_is_not_frozen(model: nn.Module) -> None:
    """Set training mode; frozen parts stay as they are, where batch norm would follow whatever passes through."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def _schedule(recipe: Recipe, step: int) -> float:
    warm = min(1.0, (step + 1) / recipe.num_warmup_steps)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / recipe.num_steps)))


@torch.no_grad()
def _average(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)
        else:
            average[name].copy_(value)


def _resume(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]) -> int:
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    for name, value in state["average"].items():
        average[name].copy_(value)
    return int(state["step"])


def _save(checkpoint: Path, state: dict[str, object]) -> None:
    partial = checkpoint.with_suffix(".partial")
    torch.save(state, partial)
    partial.rename(checkpoint)


def _log(context: TrainContext, recipe: Recipe, numbers: dict[str, float]) -> None:
    line = json.dumps({name: round(value, 5) for name, value in numbers.items()})
    with (context.folder / f"{recipe.name}.log").open("a") as log:
        log.write(line + "\n")
