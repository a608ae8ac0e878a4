"""Inversion: the noise from which a sampler leads to given latents."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from actors.editor.samplers.solvers import NAMES, ddim
from actors.editor.samplers.trajectory import PREDICTIONS, Trajectory, make_trajectory, preserving
from actors.models.device import upload
from actors.models.untyped import Model


def invert_ddim(scheduler: Model, num_steps: int, *, skipped: int = 0) -> Trajectory:
    """Return DDIM inversion (Song et al. 2021, section 4.3): from clean latents to the noise that leads back to them.

    It ends where `make_trajectory` of as many steps and as many `skipped` begins. `scheduler` is a DDIMScheduler; the
    levels are those of the DDIMInverseScheduler of diffusers.
    """
    from diffusers import DDIMInverseScheduler

    inverse = DDIMInverseScheduler.from_config(scheduler.config)
    inverse.set_timesteps(num_steps)
    gap, last = inverse.config.num_train_timesteps // num_steps, inverse.config.num_train_timesteps - 1
    times = [int(time) for time in inverse.timesteps][: num_steps - skipped]
    befores = [min(time - gap, last) for time in times]
    squares = [inverse.alphas_cumprod[time] if time >= 0 else inverse.initial_alpha_cumprod for time in befores]
    now = [preserving(float(square)) for square in squares]
    after = [preserving(float(inverse.alphas_cumprod[time])) for time in times]
    prediction = PREDICTIONS[inverse.config.prediction_type]
    steps = [ddim(prediction, one, other) for one, other in zip(now, after, strict=True)]
    return Trajectory(
        times=np.array(times, np.float64),
        input_scales=np.ones(len(times)),
        table=np.array(steps),
        levels=np.array([(level.alpha, level.sigma) for level in (*now, after[-1])]),
        start=(1.0, 0.0),
    )


def ddpm_of_given_noise(scheduler: Model, num_steps: int, *, skipped: int = 0) -> Trajectory:
    """Return the last steps of DDPM, from noised latents, for noise that edit-friendly inversion has found.

    What is given is sigma_t z_t, so that it is added as it is: where the last step has a sigma_t of 0, no z_t would
    lead to the source. `scheduler` is a DDIMScheduler.
    """
    trajectory = make_trajectory(scheduler, num_steps, skipped=skipped, pure_noise=False, is_ddpm=True)
    return _with_noise(trajectory, 1.0)


def steps_to_means(trajectory: Trajectory) -> Iterator[Trajectory]:
    """Yield each step alone, from its latents x_t to mu_t(x_t), the mean of the next ones: without its noise."""
    without = _with_noise(trajectory, 0.0)
    for step in range(without.num_steps):
        here = slice(step, step + 1)
        yield Trajectory(
            times=without.times[here],
            input_scales=without.input_scales[here],
            table=without.table[here],
            levels=without.levels[step : step + 2],
            start=without.start,
        )


def noised_independently(trajectory: Trajectory, clean: torch.Tensor, noises: torch.Tensor) -> torch.Tensor:
    """Return x_T to x_0: the clean latents (channels, height, width) at each of a trajectory's levels, then themselves.

    `noises` (num_steps, channels, height, width) are drawn independently for each level, which leaves the z_t of the
    steps larger than in a forward chain, and correlated: it is this that makes them keep the source's structure under
    another text (Huberman-Spiegelglas et al. 2024, section 3, algorithm 1).
    """
    levels = upload(torch.from_numpy(trajectory.levels[:-1]).to(clean.dtype), clean.device)[:, :, None, None, None]
    return torch.cat([levels[:, 0] * clean + levels[:, 1] * noises, clean[None]])


def _with_noise(trajectory: Trajectory, coefficient: float) -> Trajectory:
    """Return the same steps with another coefficient of fresh noise."""
    table = trajectory.table.copy()
    table[:, 0, NAMES.index("noise")] = coefficient
    return replace(trajectory, table=table)
