"""The two arms of figure 1: the engine from the tar it reads to the tar it writes, and its networks alone."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from actors.build import build_stage
from actors.editor.editor import Editor
from actors.editor.slots.drawing import SlotDrawing
from actors.models.device import precision
from cluster.dataflow.shard_row import ShardRow
from cluster.dataflow.stage_group import apply_stage
from cluster.phases.generate import commit_row, read_planned
from engine.plan.plan import make_plan
from engine.run.directory import RunDirectory
from engine.runfile.run import RunFile
from engine.sample import Edit, Sample, Stage
from engine.shards.marker import Marker
from tests.benchmarks.gpu.subjects import Subject
from tests.benchmarks.runs import run_of_stages
from tests.benchmarks.simulated import write_tar

EDITOR, VERIFIER = "editor", "verifier"
PLUGIN = "tests.benchmarks.gpu.arms:FixedEdits"


class FixedEdits:
    """Ask for one edit of each source: a plugin, as no language model is to be measured."""

    def __init__(self, options: object, device: object, *, name: str, seed: int) -> None:
        pass

    def __call__(self, batch: Sequence[Sample]) -> Iterator[Sample]:
        """Yield each source and its edit."""
        for source in batch:
            # What differs comes first, where the tokenizer of single letters does not cut it off.
            source = replace(source, caption=f"grass, photo {source.key}")
            caption = f"sand, photo {source.key}"
            edit = Edit(kind="background", before="grass", after="sand", instruction="", caption=caption)
            yield source
            yield replace(source, key=f"{source.key}_cf00", role="counterfactual", image=b"", edit=edit)


def write_sources(path: Path, subject: Subject, num_images: int) -> None:
    """Write a tar of JPEGs of a subject's size, rough as photographs are, in two classes."""
    chance = np.random.default_rng(0)

    def picture() -> Image.Image:
        coarse = Image.fromarray(chance.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        large = np.asarray(coarse.resize((subject.size,) * 2, Image.Resampling.BICUBIC), dtype=np.int16)
        return Image.fromarray(np.clip(large + chance.integers(-12, 13, large.shape), 0, 255).astype(np.uint8))

    write_tar(path, (picture() for _ in range(num_images)))


def run_file(
    subject: Subject,
    model: Path,
    verifier: Path,
    sources: Path,
    device: torch.device,
    *,
    num_batches: int,
    num_sources: int | None = None,
    **changes: object,
) -> RunFile:
    """Return the run file of a subject: each source edited once, `num_batches` batches of edits a shard.

    `num_sources` takes some of the sources, None all.
    """
    # Of random weights no verdict says anything: all are accepted.
    lenient = dict.fromkeys(("min_image", "min_text", "min_directional"), -1.0)
    placement = {"num_gpus": 1} if device.type == "cuda" else {}
    editor = {
        "kind": "editor", "method": "img2img", "size": subject.size, "batch_size": subject.batch_size,
        "model": {"name": str(model), "dtype": "bfloat16"}, "num_inference_steps": subject.num_inference_steps,
        "strength": subject.strength, "guidance_scale": subject.guidance_scale, "placement": placement, **changes,
    }  # fmt: skip
    judge = {
        "kind": "verifier", "model": {"name": str(verifier), "dtype": "bfloat16"}, "consistency": False,
        "min_contrast": 0.0, "placement": placement, **lenient,
    }  # fmt: skip
    stages = {"edits": {"kind": "plugin", "target": PLUGIN}, EDITOR: editor, VERIFIER: judge}
    size, groups = num_batches * subject.batch_size, [[EDITOR, VERIFIER]]
    return run_of_stages(
        subject.name, sources, size, stages, PLUGIN, num_sources=num_sources, offline=True, groups=groups
    )


class Engine:
    """Run real shards through the real stages in this process: read, edit, verify, commit.

    As in a run, the next shard is read and the last one written while one is on the GPU.
    """

    def __init__(self, run: RunFile, folder: Path) -> None:
        self.run_file, self._folder, self._numbers = run, folder, count()
        self.plan = make_plan(run)
        self.stages: dict[str, Stage] = {
            name: build_stage(config, name=name, seed=run.seed, offline=True) for name, config in run.stages.items()
        }
        editor = self.stages[EDITOR]
        assert isinstance(editor, Editor)
        self.editor = editor
        self.threads = ThreadPoolExecutor(2)

    @property
    def calls(self) -> Counter[str]:
        """Return what the editor's networks were asked for so far."""
        return Counter(self.editor.calls)

    def __call__(self) -> list[Marker]:
        """Make all shards once and return their markers; each edit must have been made, accepted or not."""
        out = self._folder / f"run-{next(self._numbers)}"
        rundir = RunDirectory.create(str(out), self.run_file, self.plan)
        writing: list[Future[Marker]] = []
        reading = self._read(0)
        for index in range(self.plan.num_shards):
            row = reading.result()
            if index + 1 < self.plan.num_shards:
                reading = self._read(index + 1)
            for name, stage in self.stages.items():
                row = apply_stage(name, stage, row)
            writing.append(self.threads.submit(commit_row, rundir, row))
        markers = [future.result() for future in writing]
        shutil.rmtree(out)
        num_made = sum(marker.counts.candidates - marker.counts.quarantined_candidates for marker in markers)
        assert num_made == self.plan.num_edited, f"{num_made} edits of {self.plan.num_edited}: the engine failed"
        return markers

    def _read(self, index: int) -> Future[ShardRow]:
        items = self.plan.shard(index)
        return self.threads.submit(read_planned, self.run_file.data.train, index, items)


class BareLoop:
    """Run an engine's own compiled networks on tensors that lie on the device: the same calls, and nothing else.

    Made after the engine ran once, from the count of what it did: as many rows of the UNet, pictures in and out.
    """

    def __init__(self, engine: Engine, calls: Counter[str]) -> None:
        drawing, config = engine.editor.drawing, engine.editor.config
        self._calls, self._config, self._device = calls, config, engine.editor.device
        assert isinstance(drawing, SlotDrawing)
        self._denoise, self._vae = drawing.denoise, engine.editor.pipeline.vae
        batch, edge = config.decode_batch_size, self._denoise.example[0].shape[-1]
        self._latents = torch.zeros(batch, self._vae.config.latent_channels, edge, edge, device=self._device)
        self._pictures = torch.zeros(batch, 3, engine.editor.size, engine.editor.size, device=self._device)

    @torch.inference_mode()
    def __call__(self) -> None:
        """Do the same calls once."""
        batch, dtype = self._config.decode_batch_size, self._vae.dtype
        with precision(self._config.model, self._device):
            for _ in range(-(-self._calls["encoded"] // batch)):
                self._vae.encode(self._pictures.to(dtype))
            for _ in range(self._calls["ticks"]):
                self._denoise(*self._denoise.example)
            for _ in range(-(-self._calls["decoded"] // batch)):
                self._vae.decode(self._latents.to(dtype), return_dict=False)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
