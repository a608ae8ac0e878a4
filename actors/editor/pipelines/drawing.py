"""Edits by calling a pipeline of diffusers on batches: for what the slot batcher does not know."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch

from actors.editor.pipelines.detail import reconstruct
from actors.editor.pipelines.jobs import Job
from actors.editor.pipelines.pipelines import EditBatch, PipelineKind, denoiser, run_pipeline
from actors.images.frame import Frame, to_tensor
from actors.models.attention import set_attention
from actors.models.batching import padded_batches
from actors.models.device import precision
from actors.models.untyped import Pipeline
from engine.errors import ModelError
from engine.runfile.editor import EditorConfig
from engine.sample import Json

SLOTS_ONLY = ("unet_rows", "deep_cache_interval", "compile")


class PipelineDrawing:
    """Draw edits in batches of one shape, the edits of one severity together: a call knows one strength for all."""

    def __init__(self, pipeline: Pipeline, kind: PipelineKind, config: EditorConfig) -> None:
        self.calls: Counter[str] = Counter()
        self._pipeline, self._kind, self._config = pipeline, kind, config
        attention = config.attention
        wanted = [name for name in SLOTS_ONLY if getattr(config, name) != EditorConfig.model_fields[name].default]
        if attention == "fastest":
            wanted.append("attention: fastest")
        if wanted or attention == "fastest":
            raise ModelError(
                f"{', '.join(wanted)}: for pipelines that are drawn in slots, and {config.model.name!r} is a "
                f"{type(pipeline).__name__}: leave it out"
            )
        kernel = set_attention(denoiser(pipeline), attention, pipeline.device)
        self.record: dict[str, Json] = {"batching": "batches", "attention": kernel}

    def edits(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, torch.Tensor]]:
        """Yield each job with its picture."""
        for severity in sorted({job.edit.severity for job in jobs}):
            rows = [job for job in jobs if job.edit.severity == severity]
            for padded, count in padded_batches(rows, self._config.batch_size):
                # klein runs row by row, so there is no shape to fill.
                batch = padded[:count] if self._kind == "klein" else padded
                yield from zip(padded[:count], self._run(batch), strict=False)

    def reconstructions(self, jobs: Sequence[Job]) -> Mapping[str, torch.Tensor]:
        """Return each source through the autoencoder."""
        frames: dict[str, Frame] = {job.sample.source_key: job.frame for job in jobs}
        # The shape must not depend on who shares a batch; klein runs row by row.
        size = 1 if self._kind == "klein" else self._config.batch_size
        found: dict[str, torch.Tensor] = {}
        with torch.inference_mode(), precision(self._config.model, self._pipeline.device):
            for padded, count in padded_batches(list(frames.items()), size):
                pixels = reconstruct(self._pipeline, to_tensor([frame for _, frame in padded]))
                found.update(zip((key for key, _ in padded[:count]), pixels, strict=False))
        self.calls["encoded"] += len(frames)
        return found

    def _run(self, jobs: Sequence[Job]) -> torch.Tensor:
        masks = [job.mask for job in jobs if job.mask is not None]
        batch = EditBatch(
            images=to_tensor([job.frame for job in jobs]),
            prompts=[job.edit.instruction if self._config.method == "instruct" else job.edit.caption for job in jobs],
            generators=[torch.Generator("cpu").manual_seed(job.seed) for job in jobs],
            severity=jobs[0].edit.severity,
            masks=torch.stack(masks) if masks else None,
        )
        self.calls.update(encoded=len(jobs), decoded=len(jobs))
        with torch.inference_mode(), precision(self._config.model, self._pipeline.device):
            return run_pipeline(self._pipeline, self._kind, self._config, batch)
