"""A finished tiny run with every result file, for the tests of the report."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tiny_runs import CLASSES, tiny_plan, tiny_results

from engine.evaluation.groups import LabelledPrediction, group_report
from engine.probe.attribution import GRID, Attribution
from engine.probe.findings import ClassifierPredictions, findings
from engine.report.views.attribution import write_attributions
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory
from engine.runfile.probe import ProbeConfig
from engine.runfile.run import RunFile
from engine.sample import Rejection, Sample, Verdict
from engine.shards.rows import edit_columns

ARMS = ("patient", "real_only", "reinforced")
EVIL = "<script>alert('x')</script>"
SECONDS = {"plan": 0.5, "generate": 8.0, "probe": 1.0, "reinforce": 3.0}


def generated_run(folder: Path, *, keep_rejected: str = "all", num_shards: int = 2) -> tuple[RunDirectory, RunFile]:
    """Generate: hostile captions, an accepted edit, a rejected one and a lost one for each of six sources."""
    run, plan = tiny_plan(folder, keep_rejected=keep_rejected)
    run = run.model_copy(update={"probe": ProbeConfig(model=run.probe.model, min_sources=2, num_bootstraps=100)})
    rundir = RunDirectory.create(str(folder / "run"), run, plan)
    for index in range(num_shards):
        results = [hostile(result) for result in tiny_results(plan, index)]
        commit_shard(rundir, index, plan.keys(index), results, {"editor": 2.0, "verifier": 0.5})
    return rundir, run


def finished_run(folder: Path, **settings: str) -> tuple[RunDirectory, RunFile]:
    """Write every result: the patient is wrong on every edit, the reinforced classifier on none."""
    rundir, run = generated_run(folder, **settings)
    tables = {arm: predictions(rundir, arm) for arm in ARMS}
    first, other = (
        ClassifierPredictions(classifier=f"{arm} {EVIL}", digest=f"d-{arm}", predictions=tables[arm])
        for arm in ("patient", "real_only")
    )
    _, content = findings(first, [other], run.probe)
    rundir.write_json("weakness.json", content)
    rundir.write_json("evaluation.json", evaluation())
    rundir.write_json("reinforce.json", reinforcement())
    rundir.write_json("phases.json", {"seconds": SECONDS})
    for arm in ("patient", "reinforced"):
        write_attributions(rundir, f"d-{arm}", attributions(rundir, arm))
    return rundir, run


def attributions(rundir: RunDirectory, arm: str) -> dict[str, Attribution]:
    """Say of every edit that its first cell took 0.64 of p(label) from the patient, and its last gave some to both."""
    taken = 0.64 if arm == "patient" else 0.0
    rows = [[0.0] * GRID for _ in range(GRID)]
    rows[0][0], rows[-1][-1] = taken + 0.01, -0.01
    cells = tuple(map(tuple, rows))
    edits = [sample for index in rundir.done() for sample in rundir.read_shard(index) if sample.key.endswith("_cf00")]
    return {
        edit.key: Attribution(
            control=f"{edit.source_key}_placebo", p_edit=0.875 - 0.75 * (taken > 0), p_control=0.875, cells=cells
        )
        for edit in edits
    }


def hostile(result: Sample | Rejection) -> Sample | Rejection:
    if isinstance(result, Rejection):
        return result
    edit = result.edit and replace(result.edit, instruction=EVIL)
    verdict = result.verdict and Verdict(accepted=result.verdict.accepted, reasons=result.verdict.reasons)
    return replace(
        result, caption=f"{result.caption} {EVIL}", edit=edit, verdict=verdict, provenance={"editor": {"seed": 5}}
    )


def predictions(rundir: RunDirectory, arm: str) -> pa.Table:
    """Write an arm's answers as the probe does, and return them."""
    tables = []
    for index in rundir.done():
        rows = [answer(sample, arm) for sample in rundir.read_shard(index)]
        path = rundir.storage.local_path(f"probe/d-{arm}/{index:06d}.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        tables.append(pa.Table.from_pylist(rows))
        pq.write_table(tables[-1], path)
    return pa.concat_tables(tables)


def answer(sample: Sample, arm: str) -> dict[str, object]:
    right = sample.role != "counterfactual" or arm == "reinforced"
    return {
        "key": sample.key,
        "source_key": sample.source_key,
        "split_key": sample.source_key,
        "role": sample.role,
        "split": sample.split,
        "label": sample.label,
        "class_name": sample.class_name,
        **edit_columns(sample.edit),
        "accepted": True,
        "prediction": sample.label if right else 1 - sample.label,
        "confidence": 0.875,
        "p_label": 0.875 if right else 0.125,
    }


def evaluation(attributes: Sequence[str] = ("background",)) -> dict[str, object]:
    """20 images of each class on each background; a class's own is always right, the other one only after."""
    own = dict(zip(CLASSES, ("grass", "snow"), strict=True))
    dominant = {name: {"background": value} for name, value in own.items()} if attributes else {}
    arms = {}
    for arm, share in zip(ARMS, (4, 6, 15), strict=True):
        answers = [
            LabelledPrediction(
                class_name=name,
                predicted=name,
                attributes=dict.fromkeys(attributes, place),
                is_right=own[name] == place or number < share,
                confidence=0.9,
                p_label=0.9,
            )
            for name in CLASSES
            for place in ("grass", "snow")
            for number in range(20)
        ]
        report = group_report(answers, CLASSES, attributes, dominant, {}).to_json()
        kinds = [edit_drop(kind, value, *DROPS[kind][arm]) for kind in DROPS for value in (None, EVIL)]
        scored = {"test": report, "shifted": report, "edits": None, "edits_by_kind": kinds}
        arms[arm] = {"digest": f"d-{arm}", **scored}
    comparison = {
        "arm": "reinforced", "against": "patient", "set": "test", "where": "conflict", "n": 40, "gained": 22, "lost": 0,
        "difference": 0.55, "low": 0.4, "high": 0.7, "p_value": 1e-6,
    }  # fmt: skip
    return {"arms": arms, "comparisons": [comparison], "group_by": list(attributes), "dominant": dominant}


# Drop and change of each arm, by kind of edit: one habit is cured, and another made.
DROPS = {
    "colour": {"patient": (0.02, None), "real_only": (0.03, 0.01), "reinforced": (0.14, 0.12)},
    "background": {"patient": (0.8, None), "real_only": (0.78, -0.02), "reinforced": (0.1, -0.7)},
}


def edit_drop(kind: str, value: str | None, drop: float, change: float | None) -> dict[str, object]:
    ends = {} if change is None else {"change_low": change - 0.05, "change_high": change + 0.05}
    return {
        "kind": kind, "value": value, "n_sources": 40, "n_edits": 80, "drop": drop, "drop_low": drop - 0.05,
        "drop_high": drop + 0.05, "change": change, **ends,
    }  # fmt: skip


def reinforcement(verdict: str = "ship") -> dict[str, object]:
    history = [
        {
            "step": step,
            "loss": 1 / (1 + step),
            "validation_accuracy": 0.9,
            "validation_edits_accuracy": 0.2 + step / 100,
        }
        for step in (0, 10, 20)
    ]
    trained = {"validation_accuracy": 0.9, "validation_edits_accuracy": 0.4, "best_step": 20, "history": history}
    between = {"share": 0.5, "validation_accuracy": 0.92, "validation_edits_accuracy": 0.35}
    moved = {**trained, "best_share": 0.5, "frontier": [between], "validation_accuracy": 0.92}
    return {
        "arms": {
            "patient": {"validation_accuracy": 0.91, "validation_edits_accuracy": 0.2},
            "real_only": {**trained, "model": "models/real_only"},
            "reinforced": {**moved, "validation_edits_accuracy": 0.35, "model": "models/reinforced"},
        },
        "verdict": verdict,
        "decision": {"num_candidates": 7, "apart": True, "num_choosing_keys": 19, "num_deciding_keys": 21},
        "reasons": ["a loss of 1.0 points, allowed are 0.5"],
        "settings": {"num_steps": 20, "max_accuracy_loss": 0.005},
        "images": {"replay": 40, "counterfactuals": 6},
    }
