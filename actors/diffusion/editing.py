"""Edits with the UNet pipelines of Stable Diffusion 1, 2 and XL: jobs become orders of the batcher, then pictures."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F

from actors.device import precision
from actors.diffusion.autoencoder import Autoencoder
from actors.diffusion.orders import Orders, Source
from actors.diffusion.prompts import Prompts
from actors.diffusion.slots import Prompt, SlotBatcher
from actors.diffusion.trajectory import why_not
from actors.editor_frames import to_tensor
from actors.editor_jobs import Job
from actors.editor_pipelines import PipelineKind
from actors.untyped import Pipeline
from engine.stages import EditorConfig

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


class UNet:
    """Run the UNet of a pipeline on rows, each with its own time and prompt."""

    def __init__(self, pipeline: Pipeline, config: EditorConfig) -> None:
        self._unet, self._model, self._device = pipeline.unet, config.model, pipeline.device

    def __call__(self, latents: torch.Tensor, times: torch.Tensor, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Return the outputs (num_rows, channels, height, width), float32."""
        embeddings = torch.stack([prompt.embedding for prompt in prompts])
        added = None
        if prompts[0].pooled is not None:
            pooled = torch.stack([prompt.pooled for prompt in prompts if prompt.pooled is not None])
            time_ids = torch.stack([prompt.time_ids for prompt in prompts if prompt.time_ids is not None])
            added = {"text_embeds": pooled, "time_ids": time_ids}
        with precision(self._model, self._device):
            output = self._unet(
                latents.to(self._unet.dtype),
                times,
                encoder_hidden_states=embeddings,
                added_cond_kwargs=added,
                return_dict=False,
            )
        return torch.as_tensor(output[0]).float()


class SlotDrawing:
    """Draw edits through the slot batcher, as the pipelines of diffusers would one by one.

    Each source goes through the autoencoder once, each distinct text through the text encoders once. `calls` counts.
    """

    def __init__(self, pipeline: Pipeline, kind: PipelineKind, config: EditorConfig, size: int) -> None:
        self.calls: Counter[str] = Counter()
        self._pipeline, self._kind, self._config = pipeline, kind, config
        self._device: torch.device = pipeline.device
        self._vae = Autoencoder(pipeline, batch_size=config.decode_batch_size)
        self._prompts = Prompts(pipeline, size=size, batch_size=config.decode_batch_size)
        self._vae.calls = self._prompts.calls = self.calls
        self._orders = Orders(pipeline, kind, config, self._prompts, self._vae)
        num_rows = config.batch_size * self._orders.rows_of_one
        self._batcher = SlotBatcher(denoise=UNet(pipeline, config), num_rows=num_rows, calls=self.calls)
        self._sources: dict[str, Source] = {}

    def edits(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, torch.Tensor]]:
        """Yield each job with its picture, as the batcher ends them."""
        try:
            yield from self._edits(jobs)
        finally:
            self._prompts.forget()
            self._sources.clear()

    def _edits(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, torch.Tensor]]:
        by_key = {job.sample.key: job for job in jobs}
        with torch.inference_mode():
            self._encode(jobs)
            with precision(self._config.model, self._device):
                self._prompts.learn(text for job in jobs for text in self._orders.texts(job))
            inverted = self._invert(jobs)
            orders = [
                self._orders.edit(
                    job,
                    self._sources[job.sample.source_key],
                    inverted.get((job.sample.source_key, self._orders.skipped(job))),
                )
                for job in jobs
            ]
        orders.sort(key=lambda order: order.num_row_steps, reverse=True)
        ended: list[tuple[Job, torch.Tensor]] = []
        for result in self._batcher.run(orders):
            assert result.latents is not None
            ended.append((by_key[result.order.key], result.latents))
            if len(ended) == self._config.decode_batch_size:
                yield from self._decoded(ended)
                ended = []
        yield from self._decoded(ended)

    def reconstructions(self, jobs: Sequence[Job]) -> Mapping[str, torch.Tensor]:
        """Return each source through the autoencoder."""
        with torch.inference_mode():
            self._encode(jobs)
            keys = list(dict.fromkeys(job.sample.source_key for job in jobs))
            with precision(self._config.model, self._device):
                pixels = list(self._vae.decode([self._sources[key].encoded.mean for key in keys]))
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
                self._sources.update((key, Source(encoded=one)) for key, one in zip(new, found, strict=True))
                return
            redrawn = torch.stack(masks)
            # In [-1, 1], where the pipelines of diffusers blank it, what is redrawn is 0: grey.
            blanked = torch.where(redrawn < 0.5, pictures, torch.full_like(pictures, 0.5))
            hidden = self._vae.encode(blanked) if self._orders.extra_channels else [None] * len(found)
        small = F.interpolate(redrawn, size=found[0].mean.shape[-2:]).to(self._device)
        for key, one, two, mask in zip(new, found, hidden, small, strict=True):
            self._sources[key] = Source(encoded=one, masked=two, mask=mask)

    def _invert(self, jobs: Sequence[Job]) -> dict[tuple[str, int], torch.Tensor]:
        """Return the noise of each source, as far from it as its edits begin, found once for all of them."""
        if not self._config.inversion:
            return {}
        places = {(job.sample.source_key, self._orders.skipped(job)): job for job in jobs}
        orders = {
            place: self._orders.inversion(job, self._sources[job.sample.source_key]) for place, job in places.items()
        }
        place_of = {order.key: place for place, order in orders.items()}
        self.calls["inversions"] += len(orders)
        found = self._batcher.run(orders.values())
        return {place_of[item.order.key]: item.latents for item in found if item.latents is not None}

    def _decoded(self, ended: Sequence[tuple[Job, torch.Tensor]]) -> Iterator[tuple[Job, torch.Tensor]]:
        with torch.inference_mode(), precision(self._config.model, self._device):
            pixels = list(self._vae.decode([self._vae.unscaled(latents) for _, latents in ended]))
        # As the pipelines: a picture is clamped, NaN stays.
        yield from ((job, picture.clamp(0, 1).cpu()) for (job, _), picture in zip(ended, pixels, strict=True))
