"""Figure 2: the engine against Ray Data with a stock pipeline of diffusers, each a whole run under Ray on one GPU.

The peer is what Ray's own nightly benchmark of Stable Diffusion does: `map_batches` over pictures that tasks decode, 32
at a time, an actor of one GPU that calls `StableDiffusionImg2ImgPipeline` and returns arrays. It judges nothing and
writes nothing. Both have the same weights in bfloat16, the same steps, strength and guidance.
"""

import io
import shutil
import statistics
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.phases.generate import generate_run
from engine.figures.figures import Figure
from engine.plan.plan import make_plan
from engine.run.directory import DONE, RunDirectory
from engine.runfile.run import RunFile
from tests.benchmarks.gpu.subjects import Subject
from tests.benchmarks.pairs import percentiles

BATCH = 32
Columns = Mapping[str, NDArray[Any]]


class StockPipeline:
    """Edit batches of arrays with the pipeline that diffusers finds for the model."""

    def __init__(self, subject: Subject, model: str, device: str) -> None:
        from diffusers import AutoPipelineForImage2Image

        self._subject = subject
        self._pipeline = AutoPipelineForImage2Image.from_pretrained(
            model, dtype=torch.bfloat16 if device == "cuda" else torch.float32, local_files_only=True
        ).to(device)
        self._pipeline.set_progress_bar_config(disable=True)
        # 32 pictures of 1024 pixels do not go through the autoencoder at once.
        self._pipeline.vae.enable_slicing()

    def __call__(self, batch: Columns) -> dict[str, NDArray[Any]]:
        """Return the edited pictures, float32 in [0, 1], and when they were done."""
        from PIL import Image

        subject = self._subject
        pictures = self._pipeline(
            prompt=[f"sand, photo {number:06d}" for number in batch["number"]],
            image=[Image.fromarray(pixels) for pixels in batch["pixels"]],
            num_inference_steps=subject.num_inference_steps,
            strength=subject.strength,
            guidance_scale=subject.guidance_scale,
            output_type="np",
        ).images
        assert pictures.shape[1:] == (subject.size, subject.size, 3)
        assert np.isfinite(pictures).all()
        return {"pixels": pictures, "done": np.full(len(pictures), time.time())}


class Peer:
    """Run Ray Data over the pictures of a tar."""

    def __init__(self, subject: Subject, model: Path, sources: Path, device: torch.device, batch: int) -> None:
        self._subject, self._model, self._sources, self._device, self._batch = subject, model, sources, device, batch

    def __call__(self, num_windows: int) -> list[float]:
        """Return the pictures a second of each of some windows, the first batch not counted."""
        import ray.data

        subject, batch = self._subject, self._batch
        images = _images(self._sources)
        rows = [{"number": n, "jpeg": images[n % len(images)]} for n in range(batch * (num_windows + 1))]
        dataset = (
            ray.data.from_items(rows)
            .map(_decoded)
            .map_batches(
                StockPipeline,
                fn_constructor_args=(subject, str(self._model), self._device.type),
                batch_size=batch,
                compute=ray.data.ActorPoolStrategy(size=1),
                num_gpus=1 if self._device.type == "cuda" else None,
            )
        )
        done: set[float] = set()
        for found in dataset.iter_batches(batch_size=batch, prefetch_batches=0):
            done.update(float(value) for value in found["done"])
        return _rates(sorted(done), batch)


class EngineUnderRay:
    """Run the engine as `counterforge generate` does."""

    def __init__(self, make_run: Callable[[int], RunFile], folder: Path) -> None:
        self._make_run, self._folder = make_run, folder

    def __call__(self, num_windows: int) -> list[float]:
        """Return the edits a second of each of some windows, the first shard not counted."""
        run = self._make_run(num_windows + 1)
        plan = make_plan(run)
        shutil.rmtree(self._folder, ignore_errors=True)
        rundir = RunDirectory.create(str(self._folder), run, plan)
        generate_run(run, rundir, plan)
        made = [marker.counts.accepted for marker in rundir.markers().values()]
        assert sum(made) == plan.num_edited, f"{sum(made)} edits of {plan.num_edited}: the engine failed"
        done = sorted(path.stat().st_mtime for path in (self._folder / DONE).iterdir())
        return _rates(done, plan.num_edited // plan.num_shards)


def closed_figures(
    subject: Subject, engine: Callable[[int], list[float]], peer: Callable[[int], list[float]], num_rounds: int
) -> Iterator[Figure]:
    """Yield figure 2 and the rates behind it; a Ray session must be there.

    Rounds are A-B-B-A, and what follows on itself is one run: A, BB, AA, ..., A. A single one is AA, BB.
    """
    ours, theirs = engine(1 if num_rounds > 1 else 2), list[float]()
    for number in range(num_rounds):
        theirs += peer(2)
        if num_rounds > 1:
            ours += engine(2 if number < num_rounds - 1 else 1)
    ratios = [(ours[at] + ours[at + 1]) / (theirs[at] + theirs[at + 1]) for at in range(0, 2 * num_rounds, 2)]
    low, high = percentiles(ratios) if num_rounds > 1 else (None, None)
    yield Figure(
        name=f"{subject.name}.closed_speed_up", value=statistics.median(ratios), low=low, high=high,
        target=subject.closed, better=None if subject.closed is None else "higher", n=num_rounds, unit="times",
    )  # fmt: skip
    yield Figure(name=f"{subject.name}.under_ray", value=statistics.median(ours), n=len(ours), unit="images/s")
    yield Figure(name=f"{subject.name}.ray_data", value=statistics.median(theirs), n=len(theirs), unit="images/s")


def _rates(done: list[float], num_each: int) -> list[float]:
    return [num_each / max(after - before, 1e-9) for before, after in pairwise(done)]


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    from PIL import Image

    return {"number": row["number"], "pixels": np.asarray(Image.open(io.BytesIO(row["jpeg"])).convert("RGB"))}


def _images(sources: Path) -> list[bytes]:
    with tarfile.open(sources) as tar:
        files = [tar.extractfile(member) for member in tar if member.name.endswith(".jpg")]
        return [file.read() for file in files if file is not None]
