"""A run of twelve sources in four shards, whose edits have a verifier's scores and the verdicts that follow."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tiny_runs import CLASSES, picture, tiny_run

from engine.plan.plan import make_plan
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory
from engine.runfile.fields import ModelConfig
from engine.runfile.run import RunFile, ShardConfig
from engine.runfile.verifier import VerifierConfig
from engine.sample import Edit, Rejection, Sample, content_seed
from engine.verdicts.rule import verdict_of

NUM_PER_CLASS = 6
KINDS = ("background", "colour", "colour")


def scored_run_file(folder: Path, *, keep_rejected: str = "all", **thresholds: object) -> RunFile:
    """Write six pictures of each class and return a run file with a verifier of these thresholds."""
    for number, name in enumerate(CLASSES):
        for index in range(NUM_PER_CLASS):
            path = folder / "images" / name / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture((80 * number + 10, 30 * index, 30)))
    verifier = VerifierConfig(model=ModelConfig(name="zoo/verifier"), **thresholds)
    return tiny_run(folder).model_copy(
        update={
            "stages": {"verifier": verifier},
            "shards": ShardConfig(sources_per_shard=3, keep_rejected=keep_rejected),
        }
    )


def scored_run(
    folder: Path,
    out: str = "run",
    *,
    shards: Sequence[int] = range(4),
    keep_rejected: str = "all",
    **thresholds: object,
) -> RunDirectory:
    """Commit shards as `generate` would have made them under these thresholds."""
    run = scored_run_file(folder, keep_rejected=keep_rejected, **thresholds)
    plan = make_plan(run)
    rundir = RunDirectory.create(out if "://" in out else str(folder / out), run, plan)
    config = run.stages["verifier"]
    for index in shards:
        results = [result for item, _ in plan.shard(index) for result in scored_group(item.key, item.label, config)]
        commit_shard(rundir, index, plan.keys(index), results, {"editor": 2.0})
    return rundir


def scored_group(source_key: str, label: int, config: VerifierConfig) -> list[Sample | Rejection]:
    """Return a source, its placebo, three edits whose scores follow from their keys, and one that was given up."""
    source = Sample(
        key=source_key, source_key=source_key, role="source", image=picture((9, 9, 9)), label=label,
        class_name=CLASSES[label], split="train", caption="a boot on grass", scores={"contrast": 0.1},
    )  # fmt: skip
    nothing = Edit(kind="placebo", before="x", after="x", instruction="keep", caption=source.caption)
    samples = [scored(replace(source, key=f"{source_key}_placebo", role="placebo", edit=nothing), config)]
    for number, kind in enumerate(KINDS):
        edit = Edit(kind=kind, before="grass", after="snow", instruction="put it on snow", caption="a boot on snow")
        key = f"{source_key}_cf{number:02d}"
        image = picture((250, 20 * number, 250))
        samples.append(scored(replace(source, key=key, role="counterfactual", image=image, edit=edit), config))
    lost = Rejection(key=f"{source_key}_cf03", source_key=source_key, stage="editor", reason="none", detail="❄")
    return [source, *samples, lost]


def scored(sample: Sample, config: VerifierConfig) -> Sample:
    """Give an edit scores between 0 and 1 that its key decides, and its verdict."""
    assert sample.edit is not None
    draws = np.random.default_rng(content_seed(0, sample.key)).uniform(0, 1, 6).tolist()
    scores = dict(
        zip(("image", "text_source", "text_edit", "contrast", "directional", "consistency"), draws, strict=True)
    )
    text_changes = sample.role != "placebo"
    if not text_changes:
        scores |= {"directional": float("nan"), "consistency": float("nan")}
    return replace(sample, scores=scores, verdict=verdict_of(scores, config, text_changes=text_changes))
