"""Edits with the UNet pipelines of Stable Diffusion 1, 2 and XL, drawn by the slot batcher."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from actors.editor.pipelines.jobs import EditJob
from actors.editor.samplers.trajectory import why_not
from actors.editor.slots.autoencoder import Autoencoder
from actors.editor.slots.batcher import SlotBatcher
from actors.editor.slots.denoise_jobs import DenoiseJobs, Start
from actors.editor.slots.inversions import DdimInversions, EditFriendlyInversions, Inversions
from actors.editor.slots.previews import PreviewModels, Previews
from actors.editor.slots.steps import DenoiseJob
from actors.editor.slots.texts import PromptCache
from actors.editor.slots.tuning import tune
from actors.editor.slots.unet import UNet
from actors.editor.strategies.latents import SourceLatents
from actors.editor.strategies.strategy import SlotStrategy
from actors.images.frame import to_tensor
from actors.models.device import precision, upload
from actors.models.low_rank import LowRankAdapters
from actors.models.untyped import Pipeline
from engine.runfile.editor import EditorConfig
from engine.sample import Json
from engine.verdicts.early_cut import PREVIEW

FAMILIES = (
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionXLInstructPix2PixPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
)


def why_no_slots(pipeline: Pipeline) -> str | None:
    """Return the reason for which the slot batcher cannot run a pipeline, None if it can."""
    name = type(pipeline).__name__
    if name not in FAMILIES:
        return f"{name} is no UNet pipeline of Stable Diffusion 1, 2 or XL"
    if pipeline.unet.config.time_cond_proj_dim is not None:
        return "its UNet takes the guidance scale as an input"
    if pipeline.config.get("requires_aesthetics_score"):
        return "its UNet takes an aesthetic score as an input"
    return why_not(pipeline.scheduler)


class SlotDrawing:
    """Draw edits in the slot batcher, as the pipelines of diffusers would draw each alone.

    Each source goes through the autoencoder once, each distinct text through the text encoders once; `calls` counts
    them. `about` identifies the model in the cache of benchmark results. With `preview_models` edits whose preview is
    below the threshold are not drawn to the end. `adapters` are those that jobs name.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        strategy: SlotStrategy,
        config: EditorConfig,
        size: int,
        about: Mapping[str, Json] | None = None,
        preview_models: PreviewModels | None = None,
        adapters: LowRankAdapters | None = None,
    ) -> None:
        self.calls: Counter[str] = Counter()
        self._config = config
        self._device: torch.device = pipeline.device
        self._prompts = PromptCache(pipeline, size=size, batch_size=config.decode_batch_size, calls=self.calls)
        num_terms = len(strategy.guidance(severity=1.0))
        with torch.inference_mode(), precision(config.model, self._device):
            prompt = self._prompts.example()
        self.denoise, tuned = tune(
            pipeline,
            UNet(pipeline, config.model, caches_features=config.deep_cache_interval > 1, adapters=adapters),
            config,
            size=size,
            most_rows=config.batch_size * num_terms,
            prompt=prompt,
            about=about or {},
        )
        with precision(config.model, self._device):
            self._vae = Autoencoder(
                pipeline, size=size, batch_size=config.decode_batch_size, calls=self.calls, name=config.model.name
            )
        self._denoise_jobs = DenoiseJobs(pipeline, strategy, config, self._prompts, self._vae)
        self.record: dict[str, Json] = {
            "batching": "slots",
            **tuned,
            "decode_batch_size": self._vae.batch_size,
        }
        num_rows = max(self.denoise.num_rows, num_terms)
        self._previews: Previews | None = None
        if preview_models is not None:
            self._previews = Previews(preview_models, self._vae, self.denoise, num_rows=num_rows, calls=self.calls)
            self.record["previews"] = self._previews.record
        self._batcher = SlotBatcher(
            denoise=self.denoise,
            num_rows=num_rows,
            judge=self._previews,
            judge_batch=num_rows // num_terms if self._previews is not None else 1,
            deep_cache_interval=config.deep_cache_interval,
            calls=self.calls,
        )
        self._sources: dict[str, SourceLatents] = {}

    def edits(self, jobs: Sequence[EditJob]) -> Iterator[tuple[EditJob, torch.Tensor | None]]:
        """Yield each job with its picture, and with the scores of its preview if it had one, in the order of ending."""
        by_key = {job.sample.key: job for job in jobs}
        ended: list[tuple[EditJob, torch.Tensor]] = []
        try:
            inversions = self._begin(jobs)
            if inversions is None:
                queue = self._longest_first([(job, None) for job in jobs])
            else:
                queue = deque(inversions.more(num_waiting=0))
            for result in self._batcher.run(queue):
                starts = None if inversions is None else inversions.starts(result)
                if result.latents is None:
                    yield self._scored(by_key[result.job.key]), None
                elif starts is not None:
                    # Edits start while other sources are still being inverted, so that few rows are unused.
                    queue.extend(self._longest_first(starts))
                else:
                    ended.append((self._scored(by_key[result.job.key]), result.latents))
                if inversions is not None:
                    queue.extend(inversions.more(len(queue)))
                if len(ended) == self._vae.batch_size:
                    yield from self._decoded(ended)
                    ended = []
            yield from self._decoded(ended)
        finally:
            self._prompts.clear()
            self._sources.clear()

    def _begin(self, jobs: Sequence[EditJob]) -> Inversions | None:
        """Encode what the edits need, and return the inversions that they start from, None if they start from noise."""
        with torch.inference_mode(), precision(self._config.model, self._device):
            self._encode(jobs)
            self._prompts.add(text for job in jobs for text in self._denoise_jobs.texts(job))
        if self._previews is not None:
            self._previews.start(jobs)
        inversions: Inversions
        match self._config.inversion:
            case False:
                return None
            case "edit_friendly":
                num_rows = self._batcher.num_rows
                inversions = EditFriendlyInversions(jobs, self._sources, self._denoise_jobs, num_rows=num_rows)
            case _:
                inversions = DdimInversions(jobs, self._sources, self._denoise_jobs)
        self.calls["inversions"] += inversions.count
        return inversions

    def _longest_first(self, edits: Sequence[tuple[EditJob, Start | None]]) -> deque[DenoiseJob]:
        """Return the denoise jobs of edits and their starts, the longest first."""
        with torch.inference_mode():
            found = [self._denoise_jobs.edit(job, self._sources[job.scene], start) for job, start in edits]
        if self._previews is not None:
            found = [replace(each, preview_after=self._previews.after(each)) for each in found]
        return deque(sorted(found, key=lambda each: each.num_row_steps, reverse=True))

    def _scored(self, job: EditJob) -> EditJob:
        """Return a job with the scores of its preview, where there is one, in its sample."""
        seen = self._previews.scores.get(job.sample.key, {}) if self._previews is not None else {}
        scores = {**job.sample.scores, **{PREVIEW + name: value for name, value in seen.items()}}
        return replace(job, sample=replace(job.sample, scores=scores))

    def reconstructions(self, jobs: Sequence[EditJob]) -> Mapping[str, torch.Tensor]:
        """Return each source through the autoencoder."""
        with torch.inference_mode():
            self._encode(jobs)
            scenes = {job.sample.drawn_on: job.scene for job in jobs}
            with precision(self._config.model, self._device):
                pixels = list(self._vae.decode([self._sources[scene].picture.mean for scene in scenes.values()]))
            return {key: picture.clamp(0, 1).cpu() for key, picture in zip(scenes, pixels, strict=True)}

    def _encode(self, jobs: Sequence[EditJob]) -> None:
        """Encode the pictures that are not encoded yet, with what each mask leaves of them."""
        new = {job.scene: job for job in jobs if job.scene not in self._sources}
        if not new:
            return
        pictures = to_tensor([job.frame for job in new.values()])
        masks = [job.mask for job in new.values() if job.mask is not None]
        with precision(self._config.model, self._device):
            found = self._vae.encode(pictures)
            if not masks:
                self._sources.update((key, SourceLatents(picture=one)) for key, one in zip(new, found, strict=True))
                return
            redrawn = torch.stack(masks)
            # Grey is 0 in [-1, 1], the range in which the pipelines of diffusers blank the redrawn part.
            blanked = torch.where(redrawn < 0.5, pictures, torch.full_like(pictures, 0.5))
            hidden = self._vae.encode(blanked) if self._denoise_jobs.extra_channels else [None] * len(found)
        small = upload(F.interpolate(redrawn, size=found[0].mean.shape[-2:]), self._device)
        for key, one, two, mask in zip(new, found, hidden, small, strict=True):
            self._sources[key] = SourceLatents(picture=one, outside=two, mask=mask)

    def _decoded(self, ended: Sequence[tuple[EditJob, torch.Tensor]]) -> Iterator[tuple[EditJob, torch.Tensor]]:
        with torch.inference_mode(), precision(self._config.model, self._device):
            pixels = list(self._vae.decode([self._vae.unscaled(latents) for _, latents in ended]))
        # Like the pipelines of diffusers: clamped, NaN stays.
        yield from ((job, picture.clamp(0, 1)) for (job, _), picture in zip(ended, pixels, strict=True))
