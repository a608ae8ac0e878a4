"""The editor stage: from samples with an edit to edit jobs, their drawing and the encoded picture."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from types import MappingProxyType

import torch

from actors.editor.learning.adapters import LearnedAdapters
from actors.editor.pipelines.detail import with_detail
from actors.editor.pipelines.drawing import PipelineDrawing
from actors.editor.pipelines.jobs import Drawing, EditJob
from actors.editor.pipelines.loading import load_pipeline, native_size, size_multiple
from actors.editor.pipelines.masks import InpaintMasks
from actors.editor.slots.drawing import SlotDrawing, why_no_slots
from actors.editor.slots.previews import PreviewModels
from actors.editor.strategies.strategy import SlotStrategy
from actors.images.finisher import Finisher
from actors.images.frame import Frame, fit, to_tensor
from actors.images.pictures import read_pictures
from actors.models.device import upload
from actors.models.files import ModelFiles, resolve_model
from actors.regions.make import make_finder
from engine.errors import ModelError, RunFileError
from engine.runfile.editor import EditorConfig, PreviewingEditorConfig
from engine.sample import Edit, Json, Rejection, Sample, Verdict, content_seed, draw_turns, turn_key
from engine.verdicts.rule import EARLY

LOG = logging.getLogger(__name__)


class Editor:
    """Fill in the image of each sample whose edit names this editor, or none; all others pass untouched.

    The noise of a source's placebo and of all its edits is the same, seeded by the source's key and the turn, so that
    they differ by the edit alone. The picture keeps its aspect ratio, its longer edge becomes `size`. An edit that is
    rejected by its preview leaves with that verdict and no image.
    """

    def __init__(
        self,
        config: EditorConfig,
        device: torch.device,
        *,
        name: str,
        seed: int,
        offline: bool,
        words: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        self.config, self.device, self.name, self.seed = config, device, name, seed
        files = resolve_model(config.model, offline)
        self.pipeline, self.strategy = load_pipeline(config, files, device)
        self.adapters = LearnedAdapters(config.adapters, self.pipeline, self.strategy, files)
        self.size = config.size or native_size(self.pipeline)
        multiple = size_multiple(self.pipeline)
        if self.size % multiple:
            raise RunFileError(f"stages.{name}.size is {self.size}: this model wants a multiple of {multiple}")
        self.masks: InpaintMasks | None = None
        if config.mask_model:
            size = config.batch_size
            finder = make_finder(config.mask_model, config.box_model, device, batch_size=size, offline=offline)
            self.masks = InpaintMasks(finder, config.inpaint_region, words, seed)
        self.supports_severity = self.strategy.supports_severity(self.pipeline)
        self.drawing = self._drawing(files, offline)
        self.finisher = Finisher(None if config.lossless else config.jpeg_quality, device)
        self.calls = self.drawing.calls
        self.provenance = self._provenance(files)
        self._records: dict[tuple[int, float], Json] = {}

    def __call__(self, batch: Sequence[Sample]) -> Iterator[Sample | Rejection]:
        """Yield each sample of the batch, edited where it has an edit and no image yet."""
        self._records.clear()
        yield from draw_turns(self.name, batch, self._draw)

    def _draw(self, batch: Sequence[Sample], wanted: Sequence[tuple[Sample, Edit]]) -> dict[str, Sample | Rejection]:
        """Return the edits of one turn by their keys, drawn on pictures of the batch."""
        results: dict[str, Sample | Rejection] = {}
        jobs = list(self._jobs(batch, wanted, results))
        reconstructed = self.drawing.reconstructions(jobs) if self.config.keep_detail else {}
        # Each is encoded while the next ones are drawn.
        begun = [
            (job, None if pixels is None else self.finisher.start(self._mixed(job, pixels, reconstructed), job.frame))
            for job, pixels in self.drawing.edits(jobs)
        ]
        for job, image in begun:
            results[job.sample.key] = self._result(job, image)
        return results

    def _jobs(
        self, batch: Sequence[Sample], wanted: Sequence[tuple[Sample, Edit]], results: dict[str, Sample | Rejection]
    ) -> Iterator[EditJob]:
        """Yield the edit jobs of a turn; put the rejections of samples that cannot be edited into `results`."""
        needed = {sample.drawn_on for sample, _ in wanted}
        captions = {sample.key: sample.edit.caption if sample.edit else sample.caption for sample in batch}
        framed = read_pictures(batch, needed, lambda image: fit(image, self.size), self.config)
        masks: Mapping[str, torch.Tensor | str] = {}
        if self.masks:
            frames = {key: each for key, each in framed.items() if isinstance(each, Frame)}
            masks = self.masks(frames, wanted)
        for sample, edit in wanted:
            frame = framed.get(sample.drawn_on, "its source did not come along")
            mask = masks.get(sample.key)
            if isinstance(frame, str):
                results[sample.key] = Rejection.of(sample, stage=self.name, reason="no_source_image", detail=frame)
            elif edit.severity < 1 and not self.supports_severity:
                detail = f"{self.provenance['pipeline']} has no milder edit at guidance_scale 1: raise guidance_scale"
                results[sample.key] = Rejection.of(sample, stage=self.name, reason="no_severity", detail=detail)
            elif isinstance(mask, str):
                results[sample.key] = Rejection.of(sample, stage=self.name, reason="no_mask", detail=mask)
            elif (worded := self.adapters.edit(edit)) is not None:
                yield EditJob(
                    sample=sample,
                    edit=worded,
                    frame=frame,
                    caption=captions[sample.drawn_on],
                    seed=content_seed(self.seed, turn_key(sample.source_key, edit.turn)),
                    mask=mask,
                    adapter=self.adapters.scaled(edit),
                )
            else:
                detail = f"its text does not name {edit.after!r}, which a learned word is to stand for"
                results[sample.key] = Rejection.of(sample, stage=self.name, reason="no_learned_word", detail=detail)

    def _drawing(self, files: ModelFiles, offline: bool) -> Drawing:
        reason, adapters = why_no_slots(self.pipeline), self.adapters.low_rank
        scheduler = type(self.pipeline.scheduler).__name__
        if self.config.inversion and (reason or scheduler != "DDIMScheduler"):
            raise ModelError(
                f"stages.{self.name}.inversion works with Stable Diffusion 1, 2 and XL and a DDIMScheduler only, but "
                f"for {self.config.model.name!r} {reason or f'the scheduler is {scheduler}'}: set scheduler to "
                "DDIMScheduler, or remove inversion"
            )
        if self.config.early_rejection is not None and reason:
            raise ModelError(
                f"stages.{self.name}.early_rejection: {self.config.model.name!r} cannot be stopped early, since it is "
                f"drawn in whole batches ({reason}): remove early_rejection"
            )
        if self.config.early_rejection is not None and scheduler == "PNDMScheduler":
            raise ModelError(
                f"stages.{self.name}.early_rejection: {scheduler} keeps no prediction of the finished picture for a "
                f"preview: set stages.{self.name}.scheduler to another one, such as DDIMScheduler"
            )
        if reason is None and isinstance(self.strategy, SlotStrategy):
            models: PreviewModels | None = None
            if isinstance(self.config, PreviewingEditorConfig):
                models = PreviewModels(self.config, self.device, offline=offline)
            return SlotDrawing(self.pipeline, self.strategy, self.config, self.size, files.provenance, models, adapters)
        LOG.info("stage %r: drawn in whole batches, not in slots: %s", self.name, reason)
        return PipelineDrawing(self.pipeline, self.strategy, self.config, adapters)

    def _mixed(self, job: EditJob, edited: torch.Tensor, reconstructed: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the picture (3, size, size) with the detail and the unmasked part of its source put back.

        Raises ModelError where the picture came back in another shape.
        """
        if edited.shape != (3, self.size, self.size):
            seen, wanted = "x".join(map(str, edited.shape)), f"3x{self.size}x{self.size}"
            raise ModelError(
                f"model {self.config.model.name!r}: {type(self.pipeline).__name__} drew a picture of {seen} "
                f"(channels, height, width) where {wanted} was asked for: set stages.{self.name}.size to what it draws"
            )
        if self.config.keep_detail:
            lossy = upload(reconstructed[job.sample.drawn_on], edited.device)
            edited = with_detail(edited[None], to_tensor([job.frame], edited.device), lossy[None])[0]
        return job.masked(edited)

    def _result(self, job: EditJob, encoded: Future[bytes | None] | None) -> Sample | Rejection:
        provenance = {**job.sample.provenance, self.name: self._record(job)}
        if encoded is None:
            return replace(job.sample, verdict=Verdict(accepted=False, reasons=(EARLY,)), provenance=provenance)
        image = encoded.result()
        if image is None:
            return Rejection.of(
                job.sample,
                stage=self.name,
                reason="not_finite",
                detail="the pipeline returned NaN or infinite pixels: try bfloat16 or float32",
            )
        return replace(job.sample, image=image, provenance=provenance)

    def _record(self, job: EditJob) -> Json:
        """Return the provenance that edits of a source share: one object, which is pickled and written as JSON once."""
        of = job.seed, job.edit.severity
        if of not in self._records:
            settings = self.strategy.settings(job.edit.severity)
            self._records[of] = {**self.provenance, **settings, "seed": job.seed}
        return self._records[of]

    def _provenance(self, files: ModelFiles) -> dict[str, Json]:
        import diffusers

        config = self.config
        return {
            "model": {**files.provenance, **self.adapters.provenance},
            "mask_model": dict(self.masks.provenance) if self.masks else None,
            "pipeline": type(self.pipeline).__name__,
            **self.drawing.record,
            "method": config.method,
            "scheduler": type(self.pipeline.scheduler).__name__,
            "num_inference_steps": config.num_inference_steps,
            "negative_prompt": config.negative_prompt,
            "keep_detail": config.keep_detail,
            "size": self.size,
            "dtype": config.model.dtype,
            "device": self.device.type,
            "diffusers": diffusers.__version__,
            "torch": torch.__version__,
        }
