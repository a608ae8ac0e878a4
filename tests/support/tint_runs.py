"""Runs of the plugin stages in tiny_stages over real images on disk, with a Ray session of their own."""

import io
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from engine.plan.plan import make_plan
from engine.run.directory import RunDirectory
from engine.runfile.run import RunFile

NUM_SHARDS = 4


def write_images(folder: Path, *, per_class: int = 8, bad: int = 1) -> Path:
    """Write noisy photographs of two classes, `bad` of them cut off."""
    for number, name in enumerate(("boot", "coat")):
        for index in range(per_class):
            path = folder / name / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([number, index]).integers(0, 256, (24, 32, 3), dtype=np.uint8)
            output = io.BytesIO()
            Image.fromarray(pixels).save(output, "JPEG")
            data = output.getvalue()
            path.write_bytes(data[: len(data) // 3] if number == 0 and index < bad else data)
    return folder


def tint_run(
    images: Path,
    *,
    tint: Mapping[str, object] | None = None,
    stages: Mapping[str, object] | None = None,
    replicas: tuple[int, int] = (1, 1),
    grouped: bool = False,
) -> RunFile:
    """Return a run of four shards: tint, then judge."""
    placement = {"replicas": list(replicas), "num_cpus": 0.5}
    pipeline = stages or {
        "tint": {
            "kind": "plugin",
            "target": "tiny_stages:Tint",
            "options": dict(tint or {}),
            "placement": placement,
        },
        "judge": {"kind": "plugin", "target": "tiny_stages:Judge", "placement": placement},
    }
    return RunFile.model_validate(
        {
            "name": "tint",
            "data": {
                "train": {"kind": "folder", "path": str(images)},
                "splits": {"train": 1.0, "validation": 0.0, "test": 0.0},
            },
            "shards": {"sources_per_shard": 4},
            "stages": pipeline,
            "groups": [["tint", "judge"]] if grouped else [],
            "probe": {"callable": "tiny_stages:always_first"},
        }
    )


def generate(run: RunFile, out: Path) -> RunDirectory:
    """Generate a run in the Ray session that is there."""
    from cluster.phases.generate import generate_run

    plan = make_plan(run)
    rundir = RunDirectory.create(str(out), run, plan)
    generate_run(run, rundir, plan)
    return rundir


def make_in_process(run: RunFile, out: Path, order: Sequence[int]) -> RunDirectory:
    """Make shards in this order with the dataflow's own tasks and actors, in this process."""
    from cluster.dataflow.blocks import from_block, to_block
    from cluster.dataflow.stage_group import StageGroup
    from cluster.phases.generate import commit_row, read_planned

    plan = make_plan(run)
    rundir = RunDirectory.create(str(out), run, plan)
    groups = [StageGroup(run, group, rundir.storage, classes=plan.classes) for group in run.stage_groups()]
    for index in order:
        block = to_block(read_planned(run.data.train, index, plan.shard(index)))
        for group in groups:
            block = group(pickle.loads(pickle.dumps(block, pickle.HIGHEST_PROTOCOL)))
        commit_row(rundir, from_block(block))
    return rundir


def contents(out: Path) -> dict[str, bytes]:
    """Return every file that must not depend on who made it: shards, rows, rejected, quarantine."""
    folders = ("shards", "rejected", "quarantine")
    return {
        str(path.relative_to(out)): path.read_bytes() for folder in folders for path in sorted((out / folder).glob("*"))
    }


@contextmanager
def tiny_ray(num_gpus: int = 0) -> Iterator[None]:
    """Hold a small Ray session as the program starts it."""
    from cluster.session.placement import Need
    from cluster.session.session import SessionConfig, ray_session

    need = Need(path="stages.test", num_cpus=1, num_gpus=0, replicas=(6, 6))
    with ray_session([[need]], SessionConfig(num_gpus=num_gpus)):
        yield
