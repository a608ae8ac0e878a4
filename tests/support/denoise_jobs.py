"""Orders for the slot batcher."""

from collections.abc import Iterator

import diffusers
import torch

from actors.editor.samplers.trajectory import make_trajectory
from actors.editor.slots.steps import DenoiseJob, GuidanceTerm
from actors.editor.slots.unet import Prompt

SAMPLERS = {
    "ddim": diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
    "euler": diffusers.EulerDiscreteScheduler(),
    "ancestral": diffusers.EulerAncestralDiscreteScheduler(),
    "dpm": diffusers.DPMSolverMultistepScheduler(),
    "unipc": diffusers.UniPCMultistepScheduler(),
}


def prompt(seed: int) -> Prompt:
    return Prompt(embedding=torch.randn(7, 32, generator=torch.Generator().manual_seed(seed)))


def order(seed: int, sampler: str = "ddim", *, num_steps: int = 6, skipped: int = 0, scale: float = 1.0) -> DenoiseJob:
    chance = torch.Generator().manual_seed(seed)
    latents, condition = torch.randn(2, 4, 8, 8, generator=chance).unbind()
    plain = (GuidanceTerm(weight=1.0, prompt=prompt(seed), condition=condition),)
    guided = (
        GuidanceTerm(weight=1 - scale, prompt=prompt(-1), condition=condition),
        GuidanceTerm(weight=scale, prompt=prompt(seed), condition=condition),
    )
    return DenoiseJob(
        key=f"{sampler}-{seed}",
        latents=latents,
        trajectory=make_trajectory(SAMPLERS[sampler], num_steps, skipped=skipped),
        guided=plain if scale == 1 else guided,
        plain=plain,
        generator=torch.Generator().manual_seed(seed),
    )


def mixture() -> Iterator[DenoiseJob]:
    """Yield orders of every sampler, with other lengths, starts and guidance."""
    for seed in range(3):
        for number, sampler in enumerate(SAMPLERS):
            yield order(10 * number + seed, sampler, num_steps=3 + seed, skipped=seed, scale=[1.0, 3.0, 7.5][seed])
