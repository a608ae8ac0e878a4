"""The equations of the samplers. Each is written once, for one step, in the linear space of what a step can see.

A step of these samplers is linear in the noisy latents, the model's output and what was kept of earlier steps. So an
equation is evaluated on unit vectors, in float64, and what comes out are its coefficients: a step of any sampler is
then the same few multiplications, and rows of different samplers, steps and lengths share a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Prediction = Literal["epsilon", "v_prediction", "sample"]

# What a step can see: the latents, the model's output, the corrected latents of the step before, what the two steps
# before predicted as clean latents, and fresh noise. PLMS keeps earlier outputs in these three places.
NAMES = ("latents", "output", "last", "data_1", "data_2", "noise")
LATENTS, OUTPUT, LAST, DATA_1, DATA_2, NOISE = np.eye(len(NAMES))


@dataclass(frozen=True, kw_only=True)
class Level:
    """A noise level: latents there are `alpha` times clean latents plus `sigma` times noise.

    In the variance-preserving form alpha^2 + sigma^2 = 1, in Euler's (Karras et al. 2022) alpha = 1.
    """

    alpha: float
    sigma: float

    @property
    def half_log_snr(self) -> float:
        """Return lambda = log(alpha / sigma)."""
        with np.errstate(divide="ignore"):
            return float(np.log(self.alpha) - np.log(self.sigma))


# The coefficients of one step, each in the order of NAMES: of the next latents, of the clean latents that this step
# predicts, and of what the next step corrects.
Step = tuple[Vector, Vector, Vector]


def predicted_data(prediction: Prediction, level: Level) -> Vector:
    """Return the clean latents that a model's output stands for.

    epsilon: Ho et al. 2020, eq. 15; v_prediction: Salimans & Ho 2022, appendix D, for latents scaled to variance 1.
    """
    alpha, sigma = level.alpha, level.sigma
    match prediction:
        case "epsilon":
            return (LATENTS - sigma * OUTPUT) / alpha
        case "v_prediction":
            norm = float(np.hypot(alpha, sigma))
            return (alpha * LATENTS / norm - sigma * OUTPUT) / norm
        case "sample":
            return OUTPUT


def predicted_noise(prediction: Prediction, level: Level) -> Vector:
    """Return the noise that a model's output stands for; of variance-preserving levels."""
    alpha, sigma = level.alpha, level.sigma
    match prediction:
        case "epsilon":
            return OUTPUT
        case "v_prediction":
            return alpha * OUTPUT + sigma * LATENTS
        case "sample":
            return (LATENTS - alpha * OUTPUT) / sigma


def ddim(prediction: Prediction, now: Level, after: Level, *, is_ddpm: bool = False) -> Step:
    """Return a step of DDIM (Song et al. 2021, eq. 12): without fresh noise, or with as much as DDPM has (its eq. 16).

    That is eta 0 and eta 1. Without noise, and towards more noise, it is DDIM inversion.
    """
    data, noise = predicted_data(prediction, now), predicted_noise(prediction, now)
    if not is_ddpm:
        return after.alpha * data + after.sigma * noise, data, LATENTS
    fresh = after.sigma / now.sigma * np.sqrt(max(1 - (now.alpha / after.alpha) ** 2, 0.0))
    kept = np.sqrt(max(after.sigma**2 - fresh**2, 0.0))
    return after.alpha * data + kept * noise + fresh * NOISE, data, LATENTS


# The weights of an output and of those before it (Adams and Bashforth), of the first steps and of all later ones.
PLMS_WEIGHTS = (
    (1.0,),
    (1 / 2, 1 / 2),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def plms(prediction: Prediction, place: int, now: Level, after: Level) -> Step:
    """Return step number `place` of PLMS (Liu et al. 2022, eq. 9 and 12), begun as Crowson's sampler begins.

    Step 1 goes from step 0's latents once more, with the mean of both outputs: that is the improved Euler method.
    """
    weights = PLMS_WEIGHTS[min(place, len(PLMS_WEIGHTS) - 1)]
    output = sum(
        (weight * one for weight, one in zip(weights, (OUTPUT, DATA_1, DATA_2, LAST), strict=False)), 0 * OUTPUT
    )
    latents = LAST if place == 1 else LATENTS
    noise = output if prediction == "epsilon" else now.alpha * output + now.sigma * latents
    latents = after.alpha / now.alpha * (latents - now.sigma * noise) + after.sigma * noise
    return latents, DATA_1 if place == 1 else OUTPUT, LATENTS if place == 0 else DATA_2


def euler(prediction: Prediction, now: Level, after: Level) -> Step:
    """Return an Euler step of the probability flow (Karras et al. 2022, algorithm 1)."""
    data = predicted_data(prediction, now)
    slope = (LATENTS - data) / now.sigma
    return LATENTS + (after.sigma - now.sigma) * slope, data, LATENTS


def euler_ancestral(prediction: Prediction, now: Level, after: Level) -> Step:
    """Return an Euler step down to less noise than wanted, and fresh noise up to it (Song et al. 2021, VE, eq. 46)."""
    data = predicted_data(prediction, now)
    up = after.sigma * np.sqrt(max(now.sigma**2 - after.sigma**2, 0.0)) / now.sigma
    down = np.sqrt(max(after.sigma**2 - up**2, 0.0))
    slope = (LATENTS - data) / now.sigma
    return LATENTS + (down - now.sigma) * slope + up * NOISE, data, LATENTS


def dpm_solver_pp(
    prediction: Prediction, before: Level | None, now: Level, after: Level, *, heun: bool = False, sde: bool = False
) -> Step:
    """Return a step of DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2), of first order where there is no `before`.

    `heun` is the other form of the second-order term (its table 1), `sde` the stochastic sampler (its section 5).
    """
    data = predicted_data(prediction, now)
    with np.errstate(over="ignore", invalid="ignore"):
        step = after.half_log_snr - now.half_log_snr
        scaled = 2 * step if sde else step
        keep = after.sigma / now.sigma * (np.exp(-step) if sde else 1.0)
        gain = -after.alpha * np.expm1(-scaled)
        latents = keep * LATENTS + gain * data
        if sde:
            latents = latents + after.sigma * np.sqrt(-np.expm1(-2 * step)) * NOISE
        if before is not None:
            ratio = (now.half_log_snr - before.half_log_snr) / step
            slope = (data - DATA_1) / ratio
            weight = after.alpha * (np.expm1(-scaled) / scaled + 1.0) if heun else gain / 2
            latents = latents + weight * slope
    return latents, data, LATENTS


def unipc(
    prediction: Prediction, levels: Sequence[Level], now: int, *, order: int, corrected: int, is_bh1: bool
) -> Step:
    """Return a step of UniPC (Zhao et al. 2023, algorithms 5 and 7, data prediction), of order 1 or 2.

    `levels` are all of the schedule, `now` is this step's place. First UniC of order `corrected` (0: none) mends the
    latents with this step's output, from those of the step before; then UniP of order `order` goes on.
    """
    data = predicted_data(prediction, levels[now])
    latents = LATENTS
    if corrected:
        history = [DATA_1, DATA_2][:corrected]
        latents = _unified(levels, now - 1, LAST, history, arrived=data, is_bh1=is_bh1)
    after = _unified(levels, now, latents, [data, DATA_1][:order], arrived=None, is_bh1=is_bh1)
    return after, data, latents


def _unified(
    levels: Sequence[Level],
    start: int,
    latents: Vector,
    history: Sequence[Vector],
    *,
    arrived: Vector | None,
    is_bh1: bool,
) -> Vector:
    """Return UniP from levels[start] to the next, or UniC where the data predicted there have `arrived`."""
    here, there = levels[start], levels[start + 1]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        step = there.half_log_snr - here.half_log_snr
        gain = np.expm1(-step)
        scale = -step if is_bh1 else gain
        result: Vector = there.sigma / here.sigma * latents - there.alpha * gain * history[0]
        ratios = [(levels[start - i].half_log_snr - here.half_log_snr) / step for i in range(1, len(history))]
        slopes = [(old - history[0]) / ratio for old, ratio in zip(history[1:], ratios, strict=True)]
        if arrived is not None:
            weights = _weights([*ratios, 1.0], step, scale)
            slopes = [*slopes, arrived - history[0]]
        else:
            # Of order 2 the paper's own code takes a half, which meets the condition to the order that counts.
            weights = np.full(len(slopes), 0.5)
        for weight, slope in zip(weights, slopes, strict=True):
            result = result - there.alpha * scale * weight * slope
    return result


def _weights(ratios: Sequence[float], step: float, scale: float) -> Vector:
    """Solve the order conditions (Zhao et al. 2023, eq. 5) for the weights of the differences."""
    if len(ratios) == 1:
        return np.array([0.5])
    powers = np.vander(np.array(ratios), increasing=True).T
    moment, factorial, wanted = np.expm1(-step) / -step - 1, 1, []
    for order in range(1, len(ratios) + 1):
        wanted.append(moment * factorial / scale)
        factorial *= order + 1
        moment = moment / -step - 1 / factorial
    return np.asarray(np.linalg.solve(powers, np.array(wanted)), np.float64)
