"""A run of six sources in two shards, and what its stages would have made of them."""

import io
import math
from dataclasses import replace
from pathlib import Path

from PIL import Image

from engine.plan.plan import Plan, make_plan
from engine.runfile.captioner import CaptionerConfig
from engine.runfile.data import DataConfig, FolderSource, Splits
from engine.runfile.fields import ModelConfig
from engine.runfile.probe import ProbeConfig
from engine.runfile.run import RunFile, ShardConfig
from engine.sample import Edit, Rejection, Sample, Verdict

CLASSES = ("boot", "coat")


def picture(colour: tuple[int, int, int], kind: str = "JPEG") -> bytes:
    output = io.BytesIO()
    Image.new("RGB", (16, 12), colour).save(output, kind)
    return output.getvalue()


def tiny_run(folder: Path, *, seed: int = 0, keep_rejected: str = "all") -> RunFile:
    """Write three pictures of each class and return a run file for them."""
    for number, name in enumerate(CLASSES):
        for index in range(3):
            path = folder / "images" / name / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture((80 * number + 10, 70 * index, 30)))
    return RunFile(
        name="tiny",
        seed=seed,
        data=DataConfig(
            train=FolderSource(path=str(folder / "images")), splits=Splits(train=1.0, validation=0.0, test=0.0)
        ),
        shards=ShardConfig(sources_per_shard=3, keep_rejected=keep_rejected),
        stages={"captioner": CaptionerConfig(model=ModelConfig(name="zoo/captioner"))},
        probe=ProbeConfig(model=ModelConfig(name="zoo/patient")),
    )


def tiny_plan(folder: Path, **settings: object) -> tuple[RunFile, Plan]:
    run = tiny_run(folder, **settings)
    return run, make_plan(run)


def tiny_group(source_key: str, label: int = 0) -> list[Sample | Rejection]:
    """A source, its placebo, an accepted and a rejected counterfactual, and one that was given up."""
    source = Sample(
        key=source_key,
        source_key=source_key,
        role="source",
        image=picture((9, 9, 9)),
        label=label,
        class_name=CLASSES[label],
        split="train",
        caption=f"a {CLASSES[label]} on grass",
        attributes={"background": "grass"},
    )
    nothing = Edit(kind="placebo", before="", after="", instruction="change nothing", caption=source.caption)
    snow = Edit(kind="background", before="grass", after="snow", instruction="on snow", caption="a boot on snow")
    placebo = replace(
        source,
        key=f"{source_key}_placebo",
        role="placebo",
        edit=nothing,
        scores={"image": 0.9, "directional": math.nan},
        verdict=Verdict(accepted=True),
    )
    good = replace(
        placebo,
        key=f"{source_key}_cf00",
        role="counterfactual",
        image=picture((250, 250, 250)),
        edit=snow,
        scores={"image": 0.8, "directional": 0.4},
        provenance={"editor": {"seed": 5}},
    )
    bad = replace(good, key=f"{source_key}_cf01", verdict=Verdict(accepted=False, reasons=("min_image", "blank")))
    lost = Rejection(
        key=f"{source_key}_cf02", source_key=source_key, stage="perturber", reason="not_json", detail='"❄"\n'
    )
    return [source, placebo, good, bad, lost]


def tiny_results(plan: Plan, index: int) -> list[Sample | Rejection]:
    return [result for item, _ in plan.shard(index) for result in tiny_group(item.key, item.label)]
