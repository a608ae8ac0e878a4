"""A small run directory for the fine-tuning tests: stand-in images and edits, committed as a real run commits them."""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cluster.session.placement import Need
from cluster.session.session import ray_session
from engine.plan.plan import make_plan
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory, marker_path, shard_path
from engine.runfile.run import RunFile
from engine.sample import Edit, Sample, Verdict
from engine.shards.tar import encode_shard
from engine.sources import open_source, read_sample
from engine.sources.decode import to_jpeg

CLASSES = ("blob", "stripe")
SIZE = 16
PHRASES = ("blue", "navy")


@contextmanager
def training_session(num_workers: int) -> Iterator[None]:
    """Hold a Ray session that has room for so many training workers on the CPU."""
    with ray_session([[Need(path="reinforce", num_cpus=1, num_gpus=0, replicas=(num_workers, num_workers))]]):
        yield


def save_images(folder: Path, per_class: int = 40) -> None:
    """Save two classes that differ in the object, each on a background of its own: red and blue."""
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(per_class):
            picture(label, background=label, seed=index).save(folder / name / f"{index:03d}.png")


def picture(label: int, background: int, seed: int) -> Image.Image:
    """Return one image: a white square or a white stripe on noise of the background's colour."""
    generator = np.random.default_rng([label, background, seed])
    pixels = generator.integers(0, 60, (SIZE, SIZE, 3))
    pixels[..., 0 if background == 0 else 2] += 120
    row, column = generator.integers(2, SIZE - 6, 2)
    if label == 0:
        pixels[row : row + 4, column : column + 4] = 250
    else:
        pixels[row : row + 2, :] = 250
    return Image.fromarray(pixels.astype(np.uint8))


def save_resnet(folder: Path, classes: tuple[str, ...] = CLASSES, seed: int = 0) -> Path:
    """Save a tiny ResNet with batch norm."""
    from transformers import ConvNextImageProcessorPil, ResNetConfig, ResNetForImageClassification

    torch.manual_seed(seed)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=len(classes),
        id2label=dict(enumerate(classes)), label2id={name: index for index, name in enumerate(classes)},
    )  # fmt: skip
    ResNetForImageClassification(config).save_pretrained(folder)
    ConvNextImageProcessorPil(size={"shortest_edge": SIZE}, crop_pct=1.0).save_pretrained(folder)
    return folder


def save_vit(folder: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    """Save a tiny ViT with dropout."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIZE, patch_size=4,
        hidden_dropout_prob=0.1, num_labels=len(classes), id2label=dict(enumerate(classes)),
        label2id={name: index for index, name in enumerate(classes)},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    return folder


def run_file(images: Path, model: Path, oracle: Path | None = None, **reinforce: object) -> RunFile:
    """Return a run file; `reinforce` overrides its section."""
    settings: Mapping[str, object] = {
        "num_steps": 8, "batch_size": 8, "eval_every": 4, "learning_rate": 0.01,
        "max_accuracy_loss": 0.5, "max_failures": 0,
    } | reinforce  # fmt: skip
    return RunFile.model_validate(
        {
            "name": "test",
            "data": {
                "train": {"kind": "folder", "path": str(images)},
                "splits": {"train": 0.6, "validation": 0.2, "test": 0.2},
                "num_validation_sources": 8,
                "oracle": {"kind": "folder", "path": str(oracle)} if oracle else None,
            },
            "shards": {"sources_per_shard": 12},
            "stages": {"editor": {"kind": "plugin", "target": "tests.none:None"}},
            "probe": {"model": {"name": str(model)}},
            "reinforce": settings,
            "offline": True,
        }
    )


def committed_run(root: Path, run: RunFile, edits: int = 2, *, placebos: bool = False) -> RunDirectory:
    """Write the run directory with every shard done: each source gets edits that put it on the other background."""
    plan = make_plan(run)
    rundir = RunDirectory.create(str(root), run, plan)
    for index in range(plan.num_shards):
        commit_planned(rundir, run, index, edits, placebos=placebos)
    return rundir


def commit_planned(rundir: RunDirectory, run: RunFile, index: int, edits: int = 2, *, placebos: bool = False) -> None:
    """Make one shard of the plan, marker and all."""
    source, plan = open_source(run.data.train), rundir.plan()
    sources = [read_sample(source, item, split) for item, split in plan.shard(index)]
    samples = [sample for sample in sources if isinstance(sample, Sample)]
    every = [*samples, *(edited(sample, number) for sample in samples for number in range(edits))]
    if placebos:
        every += [replace(edited(each, 2), key=f"{each.key}-placebo", role="placebo", edit=None) for each in samples]
    commit_shard(rundir, index, plan.keys(index), every, {})


def plant(rundir: RunDirectory, index: int, sample: Sample) -> None:
    """Add a sample to a shard that is done, marker and all, as a faulty tool would."""
    stored = rundir.storage.write(shard_path(index), encode_shard([*rundir.read_shard(index), sample]))
    marker = json.loads(rundir.storage.read(marker_path(index)))
    file = marker["files"][shard_path(index)]
    file |= {"blake3": stored.blake3, "bytes": stored.size_bytes, "samples": file["samples"] + 1}
    rundir.storage.write(marker_path(index), json.dumps(marker).encode())


def source_of_test_split(run: RunFile, rundir: RunDirectory) -> Sample:
    """Return a source that no shard may hold."""
    item = next(iter(rundir.plan().of_split("test"))).item
    sample = read_sample(open_source(run.data.train), item, "test")
    assert isinstance(sample, Sample)
    return sample


def edited(sample: Sample, number: int) -> Sample:
    """Return an accepted counterfactual of a source, each number with a phrase of its own."""
    buffer = io.BytesIO()
    picture(sample.label, background=1 - sample.label, seed=1000 + number).save(buffer, "PNG")
    after = PHRASES[number % len(PHRASES)]
    edit = Edit(kind="background", before="red", after=after, instruction=f"put it on {after}", caption=f"on {after}")
    return Sample(
        key=f"{sample.key}-cf{number}", source_key=sample.key, role="counterfactual",
        image=to_jpeg(buffer.getvalue()),
        label=sample.label, class_name=sample.class_name, split=sample.split, edit=edit, verdict=Verdict(accepted=True),
    )  # fmt: skip
