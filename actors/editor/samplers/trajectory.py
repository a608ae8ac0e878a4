"""From a scheduler of diffusers to the steps of one edit: times, noise levels and a table of coefficients."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from actors.editor.samplers.solvers import (
    NAMES,
    Level,
    Prediction,
    Step,
    ddim,
    dpm_solver_pp,
    euler,
    euler_ancestral,
    plms,
    unipc,
)
from actors.models.untyped import Model

SCHEDULERS = (
    "DDIMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
)
VARIANCE_EXPLODING = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
# What a model predicts, by the name of its scheduler's setting.
PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "epsilon",
    "v_prediction": "v_prediction",
    "sample": "sample",
    "original_sample": "sample",
}


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """The steps of one edit.

    `times` (num_steps,) go to the UNet with the latents times `input_scales` (num_steps,). `table` (num_steps, 3, 6)
    has the coefficients of the next latents, the predicted clean latents and the corrected latents over solvers.NAMES.
    It begins at `start` = (share of clean latents, share of noise); `levels` (num_steps + 1, 2) are these shares before
    each step and after the last.
    """

    times: NDArray[np.float64]
    input_scales: NDArray[np.float64]
    table: NDArray[np.float64]
    levels: NDArray[np.float64]
    start: tuple[float, float]

    @property
    def num_steps(self) -> int:
        """Return the number of steps."""
        return len(self.times)

    def needs_noise(self, step: int) -> bool:
        """Return whether a step draws fresh noise."""
        return bool(self.table[step, 0, NAMES.index("noise")])


def table_sums(table: torch.Tensor, terms: Sequence[torch.Tensor | None]) -> list[torch.Tensor]:
    """Return the sums of each line of a table (num_edits, 3, 6), a step's of each edit, over terms of solvers.NAMES.

    Terms and sums are (num_edits, channels, height, width); one that no edit needs is None.
    """
    present = [(column, term) for column, term in enumerate(terms) if term is not None]
    sums = []
    for line in range(table.shape[1]):
        total = torch.zeros_like(present[0][1])
        for column, term in present:
            # A product and a sum, each rounded by itself: alike wherever in a batch a value stands.
            total += table[:, line, column, None, None, None] * term
        sums.append(total)
    return sums


def why_not(scheduler: Model) -> str | None:
    """Return the reason for which a scheduler has no table of steps here, None if it has."""
    name, config = type(scheduler).__name__, scheduler.config
    if name not in SCHEDULERS:
        return f"{name} is none of {', '.join(SCHEDULERS)}"
    for setting in ("clip_sample", "thresholding", "use_flow_sigmas"):
        if config.get(setting):
            return f"{name} with {setting}"
    if config.get("solver_order", 1) > 2:
        return f"{name} of order {config.solver_order}"
    if config.prediction_type not in PREDICTIONS:
        return f"{name} with prediction_type {config.prediction_type}"
    if name == "PNDMScheduler" and not config.skip_prk_steps:
        return f"{name} with Runge-Kutta steps: skip_prk_steps is false"
    if name == "DPMSolverMultistepScheduler" and config.algorithm_type not in ("dpmsolver++", "sde-dpmsolver++"):
        return f"{name} with algorithm_type {config.algorithm_type}"
    if name == "UniPCMultistepScheduler" and (not config.predict_x0 or config.solver_p is not None):
        return f"{name} that predicts noise, or with solver_p"
    if config.get("variance_type") in ("learned", "learned_range"):
        return f"{name} with a learned variance"
    return None


def make_trajectory(
    scheduler: Model, num_steps: int, *, skipped: int = 0, pure_noise: bool = True, is_ddpm: bool = False
) -> Trajectory:
    """Return the last `num_steps` - `skipped` steps of a schedule of `num_steps`, as a scheduler of diffusers has it.

    With `pure_noise` it begins at noise alone, else at clean latents with the noise of its first level (img2img). The
    scheduler must be one that `why_not` has nothing against; it is not changed. PNDM's takes one step more. `is_ddpm`
    is for a DDIMScheduler: its steps with eta 1, which draw fresh noise.
    """
    own = type(scheduler).from_config(scheduler.config)
    own.set_timesteps(num_steps)
    levels = _levels(own)
    steps = [_step(own, levels, index, skipped, is_ddpm=is_ddpm) for index in range(skipped, len(own.timesteps))]
    here = levels[skipped:]
    exploding = type(own).__name__ in VARIANCE_EXPLODING
    return Trajectory(
        times=own.timesteps.double().numpy()[skipped:],
        input_scales=np.array([1 / np.hypot(1, level.sigma) if exploding else 1.0 for level in here[:-1]]),
        table=np.array(steps),
        levels=np.array([(level.alpha, level.sigma) for level in here]),
        start=(0.0, float(own.init_noise_sigma)) if pure_noise else (here[0].alpha, here[0].sigma),
    )


def steps_of_strength(num_steps: int, strength: float) -> int:
    """Return the number of `num_steps` that a strength in (0, 1] skips, as the pipelines of diffusers count."""
    return max(num_steps - min(int(num_steps * strength), num_steps), 0)


def _levels(scheduler: Model) -> list[Level]:
    """Return the noise level before each step, and after the last."""
    name = type(scheduler).__name__
    if name in ("DDIMScheduler", "PNDMScheduler"):
        times = [int(time) for time in scheduler.timesteps]
        return [_level_at(scheduler, time) for time in (*times, times[-1] - _gap(scheduler))]
    sigmas = [float(sigma) for sigma in scheduler.sigmas]
    alphas = [1.0 if name in VARIANCE_EXPLODING else float(1 / np.hypot(1, sigma)) for sigma in sigmas]
    return [Level(alpha=alpha, sigma=sigma * alpha) for alpha, sigma in zip(alphas, sigmas, strict=True)]


def _gap(scheduler: Model) -> int:
    """Return by how much of its time a step of DDIM or PLMS leads on."""
    return int(scheduler.config.num_train_timesteps // scheduler.num_inference_steps)


def _level_at(scheduler: Model, time: int) -> Level:
    """Return the noise level at a time of a DDIM's or PNDM's scheduler; below 0 all noise is gone, or nearly."""
    return preserving(float(scheduler.alphas_cumprod[time] if time >= 0 else scheduler.final_alpha_cumprod))


def preserving(square: float) -> Level:
    """Return the variance-preserving level whose alpha squared is `square`: alphas_cumprod of diffusers."""
    return Level(alpha=square**0.5, sigma=(1 - square) ** 0.5)


def _step(scheduler: Model, levels: Sequence[Level], index: int, first: int, *, is_ddpm: bool) -> Step:
    config = scheduler.config
    prediction = PREDICTIONS[config.prediction_type]
    now, after = levels[index], levels[index + 1]
    match type(scheduler).__name__:
        case "DDIMScheduler":
            # A fixed gap on, which with trailing steps is not quite the next one.
            after = _level_at(scheduler, int(scheduler.timesteps[index]) - _gap(scheduler))
            return ddim(prediction, now, after, is_ddpm=is_ddpm)
        case "PNDMScheduler":
            # Step 1 stands at the end of step 0, which it makes again.
            start = int(scheduler.timesteps[index]) + (_gap(scheduler) if index == first + 1 else 0)
            ends = _level_at(scheduler, start), _level_at(scheduler, start - _gap(scheduler))
            return plms(prediction, index - first, *ends)
        case "EulerDiscreteScheduler":
            return euler(prediction, now, after)
        case "EulerAncestralDiscreteScheduler":
            return euler_ancestral(prediction, now, after)
        case "DPMSolverMultistepScheduler":
            num_steps = len(levels) - 1
            lowered = config.lower_order_final and num_steps < 15
            lowers_last = config.euler_at_final or lowered or config.final_sigmas_type == "zero"
            first_order = config.solver_order == 1 or index == first or (lowers_last and index == num_steps - 1)
            return dpm_solver_pp(
                prediction,
                None if first_order else levels[index - 1],
                now,
                after,
                heun=config.solver_type == "heun",
                sde=config.algorithm_type == "sde-dpmsolver++",
            )
        case _:
            return _unipc_step(config, prediction, levels, index, first)


def _unipc_step(config: Model, prediction: Prediction, levels: Sequence[Level], index: int, first: int) -> Step:
    num_steps = len(levels) - 1

    def order(place: int) -> int:
        left = num_steps - place if config.lower_order_final else config.solver_order
        return int(min(config.solver_order, left, place - first + 1))

    corrects = index > first and index - 1 not in config.disable_corrector
    return unipc(
        prediction,
        levels,
        index,
        order=order(index),
        corrected=order(index - 1) if corrects else 0,
        is_bh1=config.solver_type == "bh1",
    )
