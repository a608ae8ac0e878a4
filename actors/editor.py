"""Edits to images: one diffusion pipeline, run on batches of one fixed shape."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from actors.attention import set_attention
from actors.batching import padded_batches
from actors.device import precision
from actors.editor_detail import reconstruct, with_detail
from actors.editor_frames import Frame, cut_out, fit, to_tensor
from actors.editor_masks import ObjectMasks
from actors.editor_pipelines import (
    EditBatch,
    can_be_milder,
    denoiser,
    effective_settings,
    load_pipeline,
    native_size,
    run_pipeline,
    size_multiple,
)
from actors.images import UnreadableImageError, decode_rgb, encode_jpeg
from actors.loading import model_provenance, resolve_model
from engine.errors import RunFileError
from engine.sample import Edit, Json, Rejection, Sample, content_seed
from engine.stages import EditorConfig


@dataclass(frozen=True, kw_only=True)
class Job:
    """Pair one sample to be edited with its source's frame; `mask` is 1 where inpainting redraws."""

    sample: Sample
    edit: Edit
    frame: Frame
    mask: torch.Tensor | None = None


class Editor:
    """Fill in the image of each sample that has an edit; sources pass untouched.

    A row's noise comes from the source's key, so a placebo and every edit of its source start from the same noise, and
    what differs between them is the edit alone. The picture keeps its aspect ratio, its longer edge becomes `size`.
    """

    def __init__(self, config: EditorConfig, device: torch.device, *, name: str, seed: int, offline: bool) -> None:
        self.config, self.device, self.name, self.seed = config, device, name, seed
        folder = resolve_model(config.model, offline)
        self.pipeline, self.kind = load_pipeline(config, folder, device)
        self.size = config.size or native_size(self.pipeline)
        multiple = size_multiple(self.pipeline)
        if self.size % multiple:
            raise RunFileError(f"stages.{name}.size is {self.size}: this model wants a multiple of {multiple}")
        self.masks = (
            ObjectMasks(config.mask_model, device, batch_size=config.batch_size, offline=offline)
            if config.mask_model
            else None
        )
        self.can_be_milder = can_be_milder(self.pipeline, self.kind, config)
        kernel = set_attention(denoiser(self.pipeline), config.attention, device)
        self.provenance = self._provenance(folder, kernel)

    def __call__(self, batch: Sequence[Sample]) -> Iterator[Sample | Rejection]:
        """Yield each sample of the batch, edited where it has an edit and no image yet."""
        results: dict[str, Sample | Rejection] = {}
        jobs = list(self._jobs(batch, results))
        reconstructed = self._reconstructed(jobs) if self.config.keep_detail else {}
        for severity in sorted({job.edit.severity for job in jobs}):
            rows = [job for job in jobs if job.edit.severity == severity]
            for padded, count in padded_batches(rows, self.config.batch_size):
                made = self._run(padded, count, reconstructed)
                results.update(zip((job.sample.key for job in padded[:count]), made, strict=True))
        for sample in batch:
            yield results.get(sample.key, sample)

    def _jobs(self, batch: Sequence[Sample], results: dict[str, Sample | Rejection]) -> Iterator[Job]:
        """Yield the work; put what cannot be worked on into `results`."""
        wanted = [sample for sample in batch if sample.edit is not None and not sample.image]
        needed = {sample.source_key for sample in wanted}
        sources = [sample for sample in batch if sample.role == "source" and sample.key in needed]
        frames: dict[str, Frame] = {}
        why: dict[str, str] = {}
        for source in sources:
            try:
                frames[source.key] = fit(decode_rgb(source.image), self.size)
            except UnreadableImageError as error:
                why[source.key] = str(error)
        masks = self._redraw_masks([source for source in sources if source.key in frames], frames)
        for sample in wanted:
            frame, mask = frames.get(sample.source_key), masks.get(sample.source_key)
            if frame is None:
                detail = why.get(sample.source_key, "its source did not come along")
                results[sample.key] = self._rejection(sample, "no_source_image", detail)
            elif sample.edit is not None and sample.edit.severity < 1 and not self.can_be_milder:
                detail = f"{self.provenance['pipeline']} has no milder edit at guidance_scale 1: raise guidance_scale"
                results[sample.key] = self._rejection(sample, "no_severity", detail)
            elif mask is not None and not 0 < float(mask.mean()) < 1:
                results[sample.key] = self._rejection(sample, "no_mask", self._mask_detail(sample, mask))
            elif sample.edit is not None:
                yield Job(sample=sample, edit=sample.edit, frame=frame, mask=mask)

    def _mask_detail(self, sample: Sample, mask: torch.Tensor) -> str:
        nothing_redrawn = float(mask.mean()) == 0
        fills = nothing_redrawn == (self.config.inpaint_region == "background")
        where = "in the whole picture" if fills else "nowhere in the picture"
        left = "redraw" if nothing_redrawn else "keep"
        return f"the mask model sees {sample.class_name!r} {where}: nothing is left to {left}"

    def _redraw_masks(self, sources: Sequence[Sample], frames: dict[str, Frame]) -> dict[str, torch.Tensor]:
        if self.masks is None or not sources:
            return {}
        words = [source.class_name.replace("_", " ") for source in sources]
        found = self.masks([frames[source.key] for source in sources], words)
        redraw = 1 - found if self.config.inpaint_region == "background" else found
        return {source.key: mask for source, mask in zip(sources, redraw, strict=True)}

    def _reconstructed(self, jobs: Sequence[Job]) -> dict[str, torch.Tensor]:
        """Return each source through the autoencoder, (3, size, size) in [0, 1], once for all of its edits."""
        frames = {job.sample.source_key: job.frame for job in jobs}
        # The shape must not depend on who shares a batch; klein runs row by row.
        size = 1 if self.kind == "klein" else self.config.batch_size
        found: dict[str, torch.Tensor] = {}
        with torch.inference_mode(), precision(self.config.model, self.device):
            for padded, count in padded_batches(list(frames.items()), size):
                pixels = reconstruct(self.pipeline, to_tensor([frame for _, frame in padded]))
                found.update(zip((key for key, _ in padded[:count]), pixels, strict=False))
        return found

    def _run(
        self, jobs: Sequence[Job], count: int, reconstructed: Mapping[str, torch.Tensor]
    ) -> list[Sample | Rejection]:
        """Return the results of the first `count` jobs of a full batch."""
        if self.kind == "klein":  # runs row by row, so there is no shape to fill
            jobs = jobs[:count]
        images = to_tensor([job.frame for job in jobs])
        masks = [job.mask for job in jobs if job.mask is not None]
        batch = EditBatch(
            images=images,
            prompts=[job.edit.instruction if self.config.method == "instruct" else job.edit.caption for job in jobs],
            generators=[torch.Generator("cpu").manual_seed(self._row_seed(job.sample)) for job in jobs],
            severity=jobs[0].edit.severity,
            masks=torch.stack(masks) if masks else None,
        )
        with torch.inference_mode(), precision(self.config.model, self.device):
            edited = run_pipeline(self.pipeline, self.kind, self.config, batch)
        if self.config.keep_detail:
            edited = with_detail(edited, images, torch.stack([reconstructed[job.sample.source_key] for job in jobs]))
        if batch.masks is not None:
            edited = torch.where(batch.masks > 0, edited, images)
        return [self._finished(job, pixels) for job, pixels in zip(jobs[:count], edited[:count], strict=True)]

    def _finished(self, job: Job, edited: torch.Tensor) -> Sample | Rejection:
        if not torch.isfinite(edited).all():
            return self._rejection(
                job.sample, "not_finite", "the pipeline returned NaN or infinite pixels: try bfloat16 or float32"
            )
        image = encode_jpeg(cut_out(edited, job.frame), self.config.jpeg_quality)
        record: dict[str, Json] = {
            **self.provenance,
            **effective_settings(self.config, self.kind, job.edit.severity),
            "seed": self._row_seed(job.sample),
        }
        return replace(job.sample, image=image, provenance={**job.sample.provenance, self.name: record})

    def _row_seed(self, sample: Sample) -> int:
        return content_seed(self.seed, sample.source_key)

    def _rejection(self, sample: Sample, reason: str, detail: str) -> Rejection:
        return Rejection(key=sample.key, source_key=sample.source_key, stage=self.name, reason=reason, detail=detail)

    def _provenance(self, folder: str, kernel: str) -> dict[str, Json]:
        import diffusers

        config = self.config
        return {
            "model": model_provenance(config.model, folder),
            "mask_model": self.masks.provenance if self.masks else None,
            "pipeline": type(self.pipeline).__name__,
            "method": config.method,
            "scheduler": type(self.pipeline.scheduler).__name__,
            "num_inference_steps": config.num_inference_steps,
            "negative_prompt": config.negative_prompt,
            "keep_detail": config.keep_detail,
            "size": self.size,
            "dtype": config.model.dtype,
            "device": self.device.type,
            "attention": kernel,
            "diffusers": diffusers.__version__,
            "torch": torch.__version__,
        }
