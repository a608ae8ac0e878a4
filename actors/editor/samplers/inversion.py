"""Inversion: the noise of which a sampler makes a given picture."""

import numpy as np

from actors.editor.samplers.solvers import ddim
from actors.editor.samplers.trajectory import PREDICTIONS, Trajectory, preserving
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
