"""From an edit to its denoise job: start, trajectory and guidance terms."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial

import torch

from actors.editor.pipelines.jobs import EditJob
from actors.editor.samplers.inversion import (
    ddpm_of_given_noise,
    invert_ddim,
    noised_independently,
    steps_to_means,
)
from actors.editor.samplers.trajectory import make_trajectory, steps_of_strength
from actors.editor.slots.autoencoder import Autoencoder
from actors.editor.slots.steps import DenoiseJob, GuidanceTerm, MaskedBlend
from actors.editor.slots.texts import PromptCache
from actors.editor.strategies.latents import SourceLatents
from actors.editor.strategies.strategy import SlotStrategy
from actors.models.device import upload
from actors.models.untyped import Pipeline
from engine.runfile.editor import EditorConfig


@dataclass(frozen=True, kw_only=True)
class Start:
    """What inversion finds for an edit: the latents (channels, height, width) with which it starts.

    Edit-friendly inversion finds the noise of its steps as well, `noises` (num_steps, channels, height, width), float64
    on the CPU.
    """

    latents: torch.Tensor
    noises: torch.Tensor | None = None


class DenoiseJobs:
    """Make denoise jobs of edits, with the noise and the steps that the pipelines of diffusers would give each alone.

    The `texts` of an edit must be embedded in `prompts` before.
    """

    def __init__(
        self, pipeline: Pipeline, strategy: SlotStrategy, config: EditorConfig, prompts: PromptCache, vae: Autoencoder
    ) -> None:
        self._scheduler, self._strategy, self._config = pipeline.scheduler, strategy, config
        self._prompts, self._vae = prompts, vae
        self._trajectory = cache(partial(make_trajectory, pipeline.scheduler, config.num_inference_steps))
        self._given = cache(partial(ddpm_of_given_noise, pipeline.scheduler, config.num_inference_steps))
        self.extra_channels = pipeline.unet.config.in_channels - pipeline.unet.config.out_channels

    def texts(self, edit_job: EditJob) -> Iterator[str | None]:
        """Yield the texts that the denoise jobs of an edit need."""
        text = self._strategy.text(edit_job.edit)
        yield text.text
        yield self._config.negative_prompt
        if text.start is not None:
            yield text.start
        if self._config.inversion:
            yield edit_job.caption

    def skipped(self, edit_job: EditJob) -> int:
        """Return the number of steps that an edit leaves out: the milder, the more."""
        strength = self._strategy.settings(edit_job.edit.severity).get("strength", 1.0)
        return steps_of_strength(self._config.num_inference_steps, strength)

    def inversion(self, edit_job: EditJob, source: SourceLatents) -> DenoiseJob:
        """Return the DDIM inversion of an edit's source, to the noise level at which the edit starts."""
        skipped, num_steps = self.skipped(edit_job), self._config.num_inference_steps
        return DenoiseJob(
            key=f"{edit_job.scene}/{skipped}",
            latents=self._vae.scaled(source.picture.mean),
            trajectory=invert_ddim(self._scheduler, num_steps, skipped=skipped),
            guided=(GuidanceTerm(weight=1.0, prompt=self._prompts[edit_job.caption]),),
        )

    def steps_to_means(
        self, edit_job: EditJob, source: SourceLatents, skipped: int
    ) -> tuple[torch.Tensor, list[DenoiseJob]]:
        """Return what edit-friendly inversion of an edit's source begins with, from the first step that is not skipped.

        These are noised latents x_t to x_0, (num_steps + 1, channels, height, width), and for each but x_0 the job of
        one step that leads to the mean of the next. Noise is drawn for skipped steps too: an edit that skips more of
        them shares what it needs.
        """
        clean, trajectory = self._vae.scaled(source.picture.mean), self._given(skipped=skipped)
        generator = torch.Generator().manual_seed(edit_job.seed)
        noises = torch.randn(self._config.num_inference_steps, *clean.shape, generator=generator)
        latents = noised_independently(trajectory, clean, upload(noises[skipped:], clean.device))
        guided = (GuidanceTerm(weight=1.0, prompt=self._prompts[edit_job.caption]),)
        jobs = [
            DenoiseJob(key=f"{edit_job.scene}/{skipped}/{number}", latents=one, trajectory=step, guided=guided)
            for number, (one, step) in enumerate(zip(latents[:-1], steps_to_means(trajectory), strict=True))
        ]
        return latents, jobs

    def edit(self, edit_job: EditJob, source: SourceLatents, start: Start | None) -> DenoiseJob:
        """Return the denoise job of an edit; it starts from what inversion found, if there was one."""
        generator = torch.Generator().manual_seed(edit_job.seed)
        skipped, pure_noise = self.skipped(edit_job), self._strategy.starts_from_noise(edit_job.edit.severity)
        noises = None if start is None else start.noises
        if noises is None:
            trajectory = self._trajectory(skipped=skipped, pure_noise=pure_noise)
        else:
            trajectory = self._given(skipped=skipped)
        mask = None if self.extra_channels else source.mask
        clean = torch.zeros_like(source.picture.mean)
        if not pure_noise or mask is not None:
            clean = self._vae.scaled(source.picture.draw(generator))
        noise = upload(torch.randn(clean.shape, generator=generator), clean.device)
        latents = trajectory.start[0] * clean + trajectory.start[1] * noise if start is None else start.latents
        guided, plain = self._terms(edit_job, self._strategy.condition(source, self._vae.scaled, generator))
        num_steps = skipped + trajectory.num_steps
        first, end = (round(share * num_steps) for share in self._config.guidance_interval)
        acts = (0.0, 1.0) if edit_job.adapter is None else edit_job.adapter.steps
        first_adapted, end_adapted = (round(share * num_steps) for share in acts)
        return DenoiseJob(
            key=edit_job.sample.key,
            latents=latents,
            trajectory=trajectory,
            guided=guided,
            plain=plain,
            guided_steps=(first - skipped, end - skipped),
            blend=None if mask is None else MaskedBlend(mask=mask, clean=clean, noise=noise),
            generator=generator,
            noises=noises,
            adapter=edit_job.adapter,
            adapter_steps=(first_adapted - skipped, end_adapted - skipped),
        )

    def _terms(
        self, edit_job: EditJob, condition: torch.Tensor | None
    ) -> tuple[tuple[GuidanceTerm, ...], tuple[GuidanceTerm, ...]]:
        """Return the terms of a guided step and those of a plain one; terms of weight 0 are left out."""
        text = self._strategy.text(edit_job.edit)
        prompt = self._prompts[text.text]
        if text.start is not None:
            prompt = self._prompts.between(text.start, text.text, text.share)
        none = self._prompts[self._config.negative_prompt]
        zeros = None if condition is None else torch.zeros_like(condition)
        guided = tuple(
            GuidanceTerm(
                weight=term.weight,
                prompt=prompt if term.has_text else none,
                condition=condition if term.has_source else zeros,
            )
            for term in self._strategy.guidance(edit_job.edit.severity)
            if term.weight
        )
        return guided, (GuidanceTerm(weight=1.0, prompt=prompt, condition=condition),)
