"""Every sampler's table against the scheduler of diffusers, step by step, in float32."""

import itertools
from collections.abc import Iterator

import diffusers
import numpy as np
import pytest
import torch

from actors.editor.samplers.inversion import invert_ddim
from actors.editor.samplers.solvers import NAMES
from actors.editor.samplers.trajectory import Trajectory, make_trajectory, steps_of_strength, why_not

STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
PLAIN_DDIM = {"clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False}
VARIANTS: dict[str, list[dict[str, object]]] = {
    "DDIMScheduler": [PLAIN_DDIM, {**PLAIN_DDIM, "set_alpha_to_one": True}],
    "PNDMScheduler": [{"skip_prk_steps": True, "steps_offset": 1}, {"skip_prk_steps": True, "set_alpha_to_one": True}],
    "EulerDiscreteScheduler": [{}, {"use_karras_sigmas": True}, {"final_sigmas_type": "sigma_min"}],
    "EulerAncestralDiscreteScheduler": [{}],
    "DPMSolverMultistepScheduler": [
        {},
        {"use_karras_sigmas": True},
        {"solver_type": "heun"},
        {"solver_order": 1},
        {"euler_at_final": True},
        {"lower_order_final": False},
        {"final_sigmas_type": "sigma_min"},
        {"algorithm_type": "sde-dpmsolver++"},
        {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
    ],
    "UniPCMultistepScheduler": [
        {},
        {"use_karras_sigmas": True},
        {"solver_order": 1},
        {"disable_corrector": [0]},
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        {"solver_type": "bh1", "final_sigmas_type": "sigma_min"},
    ],
}
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def cases() -> Iterator[tuple[str, dict[str, object]]]:
    for name, variants in VARIANTS.items():
        for variant, prediction in itertools.product(variants, PREDICTIONS):
            if name in ("EulerAncestralDiscreteScheduler", "PNDMScheduler") and prediction == "sample":
                continue  # diffusers has none
            if variant.get("rescale_betas_zero_snr") and prediction == "epsilon":
                continue  # where there is no signal left, noise says nothing of it
            yield name, {**variant, "prediction_type": prediction}


def model(latents: torch.Tensor, time: float) -> torch.Tensor:
    """Stand for a UNet: not linear, and another at each time."""
    return torch.tanh(latents * (1 + float(time) / 1000)) + 0.1 * latents.roll(1, -1)


def follow(trajectory: Trajectory, latents: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Walk along a trajectory by its table alone."""
    seen = {name: torch.zeros_like(latents) for name in NAMES} | {"latents": latents}
    for step, line in enumerate(trajectory.table.astype(np.float32)):
        inputs = seen["latents"] * float(trajectory.input_scales[step])
        seen["output"] = model(inputs, trajectory.times[step])
        if trajectory.needs_noise(step):
            seen["noise"] = torch.randn(latents.shape, generator=generator)
        after, data, last = (
            sum((float(c) * seen[name] for c, name in zip(row, NAMES, strict=True)), torch.zeros(())) for row in line
        )
        seen |= {"latents": after, "last": last, "data_1": data, "data_2": seen["data_1"]}
    return seen["latents"]


def follow_scheduler(scheduler: object, latents: torch.Tensor, skipped: int, **settings: object) -> torch.Tensor:
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    generator = torch.Generator().manual_seed(5)
    draws = "Ancestral" in type(scheduler).__name__ or "sde" in str(scheduler.config.get("algorithm_type"))
    for time in scheduler.timesteps[skipped:]:
        output = model(scheduler.scale_model_input(latents, time), time)
        chance = {"generator": generator} if draws or settings.get("eta") else {}
        latents = scheduler.step(output, time, latents, **settings, **chance).prev_sample
    return latents


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max().clamp(min=1))


@pytest.mark.parametrize(("name", "settings"), list(cases()))
def test_a_table_makes_the_steps_of_its_scheduler(name: str, settings: dict[str, object]) -> None:
    spacings = [settings["timestep_spacing"]] if "timestep_spacing" in settings else ["leading", "trailing", "linspace"]
    for spacing, num_steps, skipped in itertools.product(spacings, (2, 4, 13, 20), (0, 1, 3)):
        if skipped >= num_steps:
            continue
        scheduler = getattr(diffusers, name)(**{**STABLE_DIFFUSION, **settings, "timestep_spacing": spacing})
        assert why_not(scheduler) is None
        scheduler.set_timesteps(num_steps)
        start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * float(scheduler.init_noise_sigma)
        trajectory = make_trajectory(scheduler, num_steps, skipped=skipped)
        ours = follow(trajectory, start, torch.Generator().manual_seed(5))
        theirs = follow_scheduler(scheduler, start, skipped)
        assert distance(ours, theirs) < 1e-5, (spacing, num_steps, skipped)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variant", VARIANTS["DDIMScheduler"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_ddim_with_the_noise_of_ddpm_makes_the_steps_of_its_scheduler_with_eta_1(
    prediction: str, variant: dict[str, object], spacing: str
) -> None:
    scheduler = diffusers.DDIMScheduler(
        **STABLE_DIFFUSION, **variant, prediction_type=prediction, timestep_spacing=spacing
    )
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for num_steps, skipped in itertools.product((4, 20), (0, 3)):
        scheduler.set_timesteps(num_steps)
        trajectory = make_trajectory(scheduler, num_steps, skipped=skipped, is_ddpm=True)
        ours = follow(trajectory, start, torch.Generator().manual_seed(5))
        assert distance(ours, follow_scheduler(scheduler, start, skipped, eta=1.0)) < 1e-5, (num_steps, skipped)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_inversion_makes_the_steps_of_the_inverse_scheduler(prediction: str, spacing: str) -> None:
    scheduler = diffusers.DDIMScheduler(
        **STABLE_DIFFUSION, **PLAIN_DDIM, prediction_type=prediction, timestep_spacing=spacing
    )
    inverse = diffusers.DDIMInverseScheduler.from_config(scheduler.config)
    inverse.set_timesteps(20)
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    theirs = follow_scheduler(inverse, start, 0)
    assert distance(follow(invert_ddim(scheduler, 20), start, torch.Generator()), theirs) < 1e-5


@pytest.mark.parametrize("name", list(VARIANTS))
@pytest.mark.parametrize("skipped", [0, 7])
def test_it_starts_with_the_noise_of_its_scheduler(name: str, skipped: int) -> None:
    scheduler = getattr(diffusers, name)(**STABLE_DIFFUSION, **VARIANTS[name][0], timestep_spacing="leading")
    scheduler.set_timesteps(20)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    clean, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    theirs = scheduler.add_noise(clean, noise, scheduler.timesteps[skipped : skipped + 1])
    share, strength = make_trajectory(scheduler, 20, skipped=skipped, pure_noise=False).start
    assert distance(share * clean + strength * noise, theirs) < 1e-6


def test_strength_counts_steps_as_the_pipelines_do() -> None:
    assert [steps_of_strength(30, strength) for strength in (0.01, 0.5, 0.6, 1.0)] == [30, 15, 12, 0]


@pytest.mark.parametrize(
    ("scheduler", "reason"),
    [
        (diffusers.HeunDiscreteScheduler(), "HeunDiscreteScheduler is none of"),
        (diffusers.PNDMScheduler(), "skip_prk_steps is false"),
        (diffusers.DDIMScheduler(clip_sample=True), "clip_sample"),
        (diffusers.DPMSolverMultistepScheduler(solver_order=3), "order 3"),
        (diffusers.UniPCMultistepScheduler(predict_x0=False), "predicts noise"),
        (diffusers.EulerDiscreteScheduler(), None),
    ],
)
def test_what_is_no_table_is_named(scheduler: object, reason: str | None) -> None:
    found = why_not(scheduler)
    assert found is None if reason is None else reason in (found or "")
