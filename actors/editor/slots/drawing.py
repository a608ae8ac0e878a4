"""Edits with the UNet pipelines of Stable Diffusion 1, 2 and XL: jobs become orders of the batcher, then pictures."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from actors.editor.pipelines.jobs import Job
from actors.editor.slots.autoencoder import Autoencoder
from actors.editor.slots.batcher import Order, SlotBatcher
from actors.editor.slots.orders import Orders
from actors.editor.slots.previews import PreviewModels, Previews
from actors.editor.slots.texts import Prompts
from actors.editor.slots.trajectory import why_not
from actors.editor.slots.tuning import tune
from actors.editor.slots.unet import UNet
from actors.editor.strategies.latents import SourceLatents
from actors.editor.strategies.strategy import SlotStrategy
from actors.images.frame import to_tensor
from actors.models.device import precision, upload
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
    """Return why the slot batcher cannot run a pipeline, None where it can."""
    name = type(pipeline).__name__
    if name not in FAMILIES:
        return f"{name} is none of the families it knows"
    if pipeline.unet.config.time_cond_proj_dim is not None:
        return "its UNet is told the guidance scale"
    if pipeline.config.get("requires_aesthetics_score"):
        return "its UNet is told an aesthetic score"
    return why_not(pipeline.scheduler)


@dataclass(frozen=True, kw_only=True)
class Start:
    """Hold the inversion of a source, and the jobs that begin where it ends."""

    order: Order
    jobs: Sequence[Job]


class SlotDrawing:
    """Draw edits through the slot batcher, as the pipelines of diffusers would one by one.

    Each source goes through the autoencoder once, each distinct text through the text encoders once. `calls` counts.
    `about` names the model, for what is measured of it. With `preview_models` hopeless edits are not drawn to the end.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        strategy: SlotStrategy,
        config: EditorConfig,
        size: int,
        about: Mapping[str, Json] | None = None,
        preview_models: PreviewModels | None = None,
    ) -> None:
        self.calls: Counter[str] = Counter()
        self._config = config
        self._device: torch.device = pipeline.device
        self._vae = Autoencoder(pipeline, batch_size=config.decode_batch_size)
        self._prompts = Prompts(pipeline, size=size, batch_size=config.decode_batch_size)
        self._vae.calls = self._prompts.calls = self.calls
        self._orders = Orders(pipeline, strategy, config, self._prompts, self._vae)
        rows_of_one = len(strategy.guidance(severity=1.0))
        with torch.inference_mode(), precision(config.model, self._device):
            prompt = self._prompts.example()
        self.tuned = tune(
            pipeline,
            UNet(pipeline, config),
            config,
            size=size,
            most_rows=config.batch_size * rows_of_one,
            prompt=prompt,
            about=about or {},
        )
        with torch.inference_mode(), precision(config.model, self._device):
            self._vae.fit(size // int(pipeline.vae_scale_factor), config.model.name)
        self.record: dict[str, Json] = {
            "batching": "slots",
            **self.tuned.record,
            "decode_batch_size": self._vae.batch_size,
        }
        num_rows = max(self.tuned.denoise.num_rows, rows_of_one)
        self._batcher = SlotBatcher(
            denoise=self.tuned.denoise,
            num_rows=num_rows,
            deep_cache_interval=config.deep_cache_interval,
            calls=self.calls,
        )
        self._previews: Previews | None = None
        if preview_models is not None:
            self._previews = Previews(preview_models, self._vae, self._batcher)
            self._batcher.judge, self._batcher.judge_batch = self._previews, num_rows // rows_of_one
            self.record["previews"] = self._previews.record
        self._sources: dict[str, SourceLatents] = {}

    def edits(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, torch.Tensor | None]]:
        """Yield each job, with the scores of its preview if it had one, and its picture, as the batcher ends them."""
        try:
            yield from self._edits(jobs)
        finally:
            self._prompts.forget()
            self._sources.clear()

    def _edits(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, torch.Tensor | None]]:
        by_key = {job.sample.key: job for job in jobs}
        with torch.inference_mode(), precision(self._config.model, self._device):
            self._encode(jobs)
            self._prompts.learn(text for job in jobs for text in self._orders.texts(job))
        if self._previews is not None:
            self._previews.learn(jobs)
        starts = self._inversions(jobs)
        orders = deque(start.order for start in starts.values()) if starts else self._in_order(jobs)
        ended: list[tuple[Job, torch.Tensor]] = []
        for result in self._batcher.run(orders):
            if result.latents is None:
                yield self._scored(by_key[result.order.key]), None
                continue
            if result.order.key in starts:
                # Its edits begin while other sources are still being inverted, so that few rows are empty.
                orders.extend(self._in_order(starts[result.order.key].jobs, result.latents))
                continue
            ended.append((self._scored(by_key[result.order.key]), result.latents))
            if len(ended) == self._vae.batch_size:
                yield from self._decoded(ended)
                ended = []
        yield from self._decoded(ended)

    def _in_order(self, jobs: Sequence[Job], inverted: torch.Tensor | None = None) -> deque[Order]:
        """Return the orders of jobs, the longest first."""
        with torch.inference_mode():
            orders = [self._orders.edit(job, self._sources[job.sample.source_key], inverted) for job in jobs]
        if self._previews is not None:
            orders = [replace(order, preview_after=self._previews.after(order)) for order in orders]
        return deque(sorted(orders, key=lambda order: order.num_row_steps, reverse=True))

    def _scored(self, job: Job) -> Job:
        """Return a job with the scores of its preview, where there is one, in its sample."""
        seen = self._previews.scores.get(job.sample.key, {}) if self._previews is not None else {}
        scores = {**job.sample.scores, **{PREVIEW + name: value for name, value in seen.items()}}
        return replace(job, sample=replace(job.sample, scores=scores))

    def _inversions(self, jobs: Sequence[Job]) -> dict[str, Start]:
        """Return, by the key of their order, the inversions that jobs begin with: one for all that begin alike."""
        if not self._config.inversion:
            return {}
        alike: dict[tuple[str, int], list[Job]] = {}
        for job in jobs:
            alike.setdefault((job.sample.source_key, self._orders.skipped(job)), []).append(job)
        self.calls["inversions"] += len(alike)
        starts = [
            Start(order=self._orders.inversion(members[0], self._sources[source]), jobs=members)
            for (source, _), members in alike.items()
        ]
        return {start.order.key: start for start in starts}

    def reconstructions(self, jobs: Sequence[Job]) -> Mapping[str, torch.Tensor]:
        """Return each source through the autoencoder."""
        with torch.inference_mode():
            self._encode(jobs)
            keys = list(dict.fromkeys(job.sample.source_key for job in jobs))
            with precision(self._config.model, self._device):
                pixels = list(self._vae.decode([self._sources[key].picture.mean for key in keys]))
            return {key: picture.clamp(0, 1).cpu() for key, picture in zip(keys, pixels, strict=True)}

    def _encode(self, jobs: Sequence[Job]) -> None:
        """Encode the sources that are not encoded yet."""
        new = {job.sample.source_key: job for job in jobs if job.sample.source_key not in self._sources}
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
            # In [-1, 1], where the pipelines of diffusers blank it, what is redrawn is 0: grey.
            blanked = torch.where(redrawn < 0.5, pictures, torch.full_like(pictures, 0.5))
            hidden = self._vae.encode(blanked) if self._orders.extra_channels else [None] * len(found)
        small = upload(F.interpolate(redrawn, size=found[0].mean.shape[-2:]), self._device)
        for key, one, two, mask in zip(new, found, hidden, small, strict=True):
            self._sources[key] = SourceLatents(picture=one, outside=two, mask=mask)

    def _decoded(self, ended: Sequence[tuple[Job, torch.Tensor]]) -> Iterator[tuple[Job, torch.Tensor]]:
        with torch.inference_mode(), precision(self._config.model, self._device):
            pixels = list(self._vae.decode([self._vae.unscaled(latents) for _, latents in ended]))
        # As the pipelines: a picture is clamped, NaN stays.
        yield from ((job, picture.clamp(0, 1)) for (job, _), picture in zip(ended, pixels, strict=True))
