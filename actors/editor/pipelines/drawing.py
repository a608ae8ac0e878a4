"""Edits by calls of a diffusers pipeline on whole batches: for pipelines that the slot batcher cannot run."""

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from actors.editor.pipelines.detail import reconstruct
from actors.editor.pipelines.jobs import EditJob
from actors.editor.pipelines.loading import denoiser
from actors.editor.strategies.strategy import EditBatch, Strategy
from actors.images.frame import Frame, to_tensor
from actors.models.attention import set_attention
from actors.models.batching import padded_batches
from actors.models.device import precision
from actors.models.low_rank import LowRankAdapters, ScaledAdapter
from actors.models.untyped import Pipeline
from engine.errors import ModelError
from engine.runfile.editor import EditorConfig
from engine.sample import Json

SLOTS_ONLY = ("unet_rows", "deep_cache_interval", "compile")


class PipelineDrawing:
    """Draw edits in batches of one shape, those of one severity and adapter together: a call knows one for all."""

    def __init__(
        self,
        pipeline: Pipeline,
        strategy: Strategy,
        config: EditorConfig,
        adapters: LowRankAdapters | None = None,
    ) -> None:
        self.calls: Counter[str] = Counter()
        self._pipeline, self._strategy, self._config = pipeline, strategy, config
        self._adapters = adapters or LowRankAdapters(denoiser(pipeline))
        self._batch_size = config.batch_size if strategy.is_batched else 1
        attention = config.attention
        wanted = [name for name in SLOTS_ONLY if getattr(config, name) != EditorConfig.model_fields[name].default]
        if attention == "fastest":
            wanted.append("attention: fastest")
        if any(adapter.steps != (0, 1) for adapter in config.adapters):
            wanted.append("adapters.steps")
        if wanted or attention == "fastest":
            raise ModelError(
                f"{', '.join(wanted)}: only for pipelines that are drawn in slots (Stable Diffusion 1, 2 and XL), and "
                f"model {config.model.name!r} is a {type(pipeline).__name__}: leave it out"
            )
        self._named = f"model {config.model.name!r}: {type(pipeline).__name__}"
        kernel = set_attention(denoiser(pipeline), attention, pipeline.device)
        self.record: dict[str, Json] = {"batching": "batches", "attention": kernel}

    def edits(self, jobs: Sequence[EditJob]) -> Iterator[tuple[EditJob, torch.Tensor]]:
        """Yield each job with its picture."""
        alike: dict[tuple[float, ScaledAdapter | None], list[EditJob]] = {}
        for job in sorted(jobs, key=lambda each: each.edit.severity):
            alike.setdefault((job.edit.severity, job.adapter), []).append(job)
        for rows in alike.values():
            for padded, count in padded_batches(rows, self._batch_size):
                with self._adapters.rows([rows[0].adapter]):
                    pictures = self._run(padded)
                yield from zip(padded[:count], pictures, strict=False)

    def reconstructions(self, jobs: Sequence[EditJob]) -> Mapping[str, torch.Tensor]:
        """Return each source through the autoencoder."""
        frames: dict[str, Frame] = {job.sample.drawn_on: job.frame for job in jobs}
        found: dict[str, torch.Tensor] = {}
        with torch.inference_mode(), precision(self._config.model, self._pipeline.device):
            for padded, count in padded_batches(list(frames.items()), self._batch_size):
                pixels = reconstruct(self._pipeline, to_tensor([frame for _, frame in padded]))
                found.update(zip((key for key, _ in padded[:count]), pixels, strict=False))
        self.calls["encoded"] += len(frames)
        return found

    def _run(self, jobs: Sequence[EditJob]) -> torch.Tensor:
        """Return the edited images, (num_rows, 3, size, size), float32 on the CPU, in [0, 1] where finite."""
        masks = [job.mask for job in jobs if job.mask is not None]
        batch = EditBatch(
            images=to_tensor([job.frame for job in jobs]),
            texts=[self._strategy.text(job.edit) for job in jobs],
            severity=jobs[0].edit.severity,
            masks=torch.stack(masks) if masks else None,
        )
        arguments: dict[str, Any] = {
            "prompt": batch.prompts,
            "generator": [torch.Generator("cpu").manual_seed(job.seed) for job in jobs],
            "num_inference_steps": self._config.num_inference_steps,
            # Masks and images are tensors: through PIL a batch costs 9-12 ms an image at 512 px.
            "output_type": "pt",
            **_size(self._pipeline, batch.images),
            **self._strategy.settings(batch.severity),
        }
        self.calls.update(encoded=len(jobs), decoded=len(jobs))
        with torch.inference_mode(), precision(self._config.model, self._pipeline.device):
            arguments |= self._strategy.arguments(self._pipeline, batch)
            try:
                pictures = torch.as_tensor(self._pipeline(**arguments).images).float().cpu()
            except ValueError as error:
                raise ModelError(f"{self._named} refuses its call: {error}") from error
        if len(pictures) != len(jobs):
            raise ModelError(f"{self._named} drew {len(pictures)} pictures for {len(jobs)} edits")
        return pictures


def _size(pipeline: Pipeline, images: torch.Tensor) -> dict[str, Any]:
    """Return the size of the images as arguments of a pipeline, and what keeps it from choosing its own.

    Only what its call takes: without a size some take that of the images, others that of their training.
    """
    height, width = images.shape[-2:]
    wanted = {"height": height, "width": width, "max_area": height * width, "_auto_resize": False}
    takes = inspect.signature(type(pipeline).__call__).parameters
    return {name: value for name, value in wanted.items() if name in takes}
