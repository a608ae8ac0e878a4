"""The run of scored_runs with an editor that rejects early: two shards are its pilot, in the others it drops edits."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scored_runs import scored_group, scored_run_file

from engine.plan.plan import make_plan
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory
from engine.runfile.run import RunFile
from engine.runfile.verifier import VerifierConfig
from engine.sample import Rejection, Sample, Verdict, content_seed
from engine.selection.early import Cut, make_cut, split_pilot
from engine.verdicts.early_cut import PREVIEW, margin
from engine.verdicts.rule import EARLY

# Of six sources with three edits some five are accepted: with a rate of 0.5 the lowest may be the cut.
EARLY_REJECTION = {"pilot_shards": 2, "false_reject": 0.45, "ahead": 0}
LOOSE = {"min_image": 0.3, "min_text": 0.05, "min_directional": 0.05, "min_contrast": 0.0, "consistency": False}


def early_run_file(folder: Path, *, keep_rejected: str = "all", **early: object) -> RunFile:
    run = scored_run_file(folder, keep_rejected=keep_rejected, **LOOSE)
    editor = {"kind": "editor", "model": {"name": "zoo/editor"}, "early_rejection": {**EARLY_REJECTION, **early}}
    content = run.model_dump()
    return RunFile.model_validate(content | {"stages": {"editor": editor, **content["stages"]}})


def early_run(
    folder: Path, out: str = "run", *, keep_rejected: str = "all", shards: Sequence[int] = range(4), **early: object
) -> tuple[RunDirectory, Cut]:
    """Commit shards as `generate` would have made them, the pilot first."""
    run = early_run_file(folder, keep_rejected=keep_rejected, **early)
    plan = make_plan(run)
    rundir = RunDirectory.create(str(folder / out), run, plan)
    pilots, others = split_pilot(run, range(plan.num_shards))
    for index in pilots:
        commit_shard(rundir, index, plan.keys(index), results_of(run, index), {})
    cut = make_cut(run, rundir, pilots, others, 1)
    for index in [index for index in others if index in shards]:
        commit_shard(rundir, index, plan.keys(index), results_of(run, index, cut), {}, early=cut.sha256)
    return rundir, cut


def results_of(run: RunFile, index: int, cut: Cut | None = None) -> list[Sample | Rejection]:
    """What the stages make of a shard: edits with previews, those that are below a cut without picture and scores."""
    verifier = run.stages["verifier"]
    assert isinstance(verifier, VerifierConfig)
    items = [item for item, _ in make_plan(run).shard(index)]
    every = [result for item in items for result in scored_group(item.key, item.label, verifier)]
    return [_previewed(one, cut) if isinstance(one, Sample) and one.role == "counterfactual" else one for one in every]


def _previewed(sample: Sample, cut: Cut | None) -> Sample:
    errors = np.random.default_rng(content_seed(1, sample.key)).normal(0, 0.02, len(sample.scores)).tolist()
    preview = {name: value + error for (name, value), error in zip(sample.scores.items(), errors, strict=True)}
    scores = {PREVIEW + name: value for name, value in preview.items()}
    if cut is not None and cut.least is not None and margin(preview, cut.checks) < cut.least:
        return replace(sample, image=b"", scores=scores, verdict=Verdict(accepted=False, reasons=(EARLY,)))
    return replace(sample, scores={**sample.scores, **scores})
