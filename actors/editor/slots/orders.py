"""What the batcher is asked for: each edit as an order, its start, its steps and its rows of the UNet."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from actors.editor.pipelines.jobs import Job
from actors.editor.pipelines.pipelines import PipelineKind, effective_settings
from actors.editor.slots.autoencoder import Autoencoder, Encoded
from actors.editor.slots.batcher import Kept, Order, Row
from actors.editor.slots.texts import Prompts
from actors.editor.slots.trajectory import Trajectory, invert_ddim, make_trajectory, steps_of_strength
from actors.models.device import upload
from actors.models.untyped import Pipeline
from engine.runfile.editor import EditorConfig
from engine.sample import PLACEBO_INSTRUCTION


@dataclass(frozen=True, kw_only=True)
class Source:
    """Hold what all edits of a source share: its latents, and those of its picture without what is to be redrawn.

    `mask` (1, height, width) is 1 where latents are redrawn.
    """

    encoded: Encoded
    masked: Encoded | None = None
    mask: torch.Tensor | None = None


class Orders:
    """Make orders as the pipelines of diffusers would draw them one by one: the same noise, the same steps.

    Of every job its texts must be in `prompts` before (`texts` says which).
    """

    def __init__(
        self, pipeline: Pipeline, kind: PipelineKind, config: EditorConfig, prompts: Prompts, vae: Autoencoder
    ) -> None:
        self._pipeline, self._kind, self._config = pipeline, kind, config
        self._prompts, self._vae = prompts, vae
        self._trajectories: dict[tuple[int, bool], Trajectory] = {}
        self.extra_channels = pipeline.unet.config.in_channels - pipeline.unet.config.out_channels

    @property
    def rows_of_one(self) -> int:
        """Return how many rows a step of one edit takes at most."""
        if self._config.guidance_scale <= 1:
            return 1
        return 3 if self._kind == "pix2pix" else 2

    def texts(self, job: Job) -> Iterator[str | None]:
        """Yield the texts that the orders of a job need."""
        yield self._text(job)
        yield self._config.negative_prompt
        if self._walks(job):
            yield PLACEBO_INSTRUCTION
        if self._config.inversion:
            yield job.sample.caption

    def skipped(self, job: Job) -> int:
        """Return how many of the steps an edit leaves out: the milder, the more."""
        settings = effective_settings(self._config, self._kind, job.edit.severity)
        return steps_of_strength(self._config.num_inference_steps, settings.get("strength", 1.0))

    def inversion(self, job: Job, source: Source) -> Order:
        """Return the order for the noise of a job's source, as far from it as the job begins."""
        skipped, num_steps = self.skipped(job), self._config.num_inference_steps
        return Order(
            key=f"{job.sample.source_key}/{skipped}",
            latents=self._vae.scaled(source.encoded.mean),
            trajectory=invert_ddim(self._pipeline.scheduler, num_steps, skipped=skipped),
            guided=(Row(weight=1.0, prompt=self._prompts[job.sample.caption]),),
        )

    def edit(self, job: Job, source: Source, inverted: torch.Tensor | None) -> Order:
        """Return the order for a job, from `inverted` latents where there are some."""
        settings = effective_settings(self._config, self._kind, job.edit.severity)
        generator = torch.Generator().manual_seed(job.seed)
        strength, skipped = settings.get("strength", 1.0), self.skipped(job)
        pure_noise = self._kind == "pix2pix" or (self._kind == "inpaint" and strength == 1.0)
        trajectory = self._trajectory(skipped, pure_noise=pure_noise)
        keeps = self._kind == "inpaint" and not self.extra_channels
        clean = torch.zeros_like(source.encoded.mean)
        if not pure_noise or keeps:
            clean = self._vae.scaled(source.encoded.draw(generator))
        noise = upload(torch.randn(clean.shape, generator=generator), clean.device)
        if inverted is None:
            inverted = trajectory.start[0] * clean + trajectory.start[1] * noise
        rows, plain = self._rows(job, settings, self._condition(source, generator))
        num_steps = skipped + trajectory.num_steps
        first, end = (round(share * num_steps) for share in self._config.guidance_interval)
        return Order(
            key=job.sample.key,
            latents=inverted,
            trajectory=trajectory,
            guided=rows,
            plain=plain,
            guided_steps=(first - skipped, end - skipped),
            kept=Kept(mask=source.mask, clean=clean, noise=noise) if keeps and source.mask is not None else None,
            generator=generator,
        )

    def _text(self, job: Job) -> str:
        return job.edit.instruction if self._config.method == "instruct" else job.edit.caption

    def _walks(self, job: Job) -> bool:
        """Return whether an edit is made milder on the way from the placebo's instruction to its own."""
        return self._kind == "pix2pix" and job.edit.severity < 1 and self._config.guidance_scale == 1

    def _condition(self, source: Source, generator: torch.Generator) -> torch.Tensor | None:
        """Return what goes behind the latents: those of the source, or the mask and what is not to be redrawn."""
        if not self.extra_channels:
            return None
        if source.masked is not None and source.mask is not None:
            return torch.cat([source.mask, self._vae.scaled(source.masked.draw(generator))])
        scales = getattr(self._pipeline, "is_cosxl_edit", False)
        return self._vae.scaled(source.encoded.mean) if scales else source.encoded.mean

    def _rows(
        self, job: Job, settings: Mapping[str, float], condition: torch.Tensor | None
    ) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
        """Return the rows of a guided step and those of a plain one; rows that would weigh nothing are left out.

        Classifier-free guidance: Ho & Salimans 2022, eq. 6; with two scales: Brooks et al. 2023, eq. 3.
        """
        text = self._prompts[self._text(job)]
        if self._walks(job):
            text = self._prompts.between(PLACEBO_INSTRUCTION, self._text(job), job.edit.severity)
        none = self._prompts[self._config.negative_prompt]
        scale = settings["guidance_scale"]
        plain = (Row(weight=1.0, prompt=text, condition=condition),)
        if scale <= 1:
            return plain, plain
        rows: tuple[Row, ...]
        if self._kind != "pix2pix" or condition is None:
            rows = (
                Row(weight=1 - scale, prompt=none, condition=condition),
                Row(weight=scale, prompt=text, condition=condition),
            )
        else:
            image_scale = settings["image_guidance_scale"]
            rows = (
                Row(weight=scale, prompt=text, condition=condition),
                Row(weight=image_scale - scale, prompt=none, condition=condition),
                Row(weight=1 - image_scale, prompt=none, condition=torch.zeros_like(condition)),
            )
        return tuple(row for row in rows if row.weight), plain

    def _trajectory(self, skipped: int, *, pure_noise: bool) -> Trajectory:
        key = skipped, pure_noise
        if key not in self._trajectories:
            self._trajectories[key] = make_trajectory(
                self._pipeline.scheduler, self._config.num_inference_steps, skipped=skipped, pure_noise=pure_noise
            )
        return self._trajectories[key]
