"""A run of several editors: who draws which edits, each with its own placebo, and the same bytes under kills."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from repository import ROOT
from rounds_runs import files_of_shards, make_shard_again, rounds_run

import cluster.studies.chaos.injection
from cluster.phases import classifiers
from cluster.phases.pipeline import open_run, run_phases
from cluster.studies.chaos.study import Study
from engine.audit.files import verify_run
from engine.plan.estimate import estimate_run
from engine.plan.plan import make_plan
from engine.runfile.load import load_run_file
from engine.runfile.run import RunFile

ROUTES = {"background": ["editor", "soft"], "*": ["editor"]}


def two_editors(**perturber: object) -> RunFile:
    """Return the demo with a few sources, a second editor that guides less, and all models in one actor."""
    run = rounds_run(1, num_sources=4, num_validation=2, per_shard=3).model_dump()
    stages = dict(run["stages"])
    verifier = stages.pop("verifier")
    soft = stages["editor"] | {"guidance_scale": 1.5}
    stages["perturber"] |= {"strategies": ROUTES, **perturber}
    run["stages"] = {**stages, "soft": soft, "verifier": verifier}
    run["groups"] = [tuple(run["stages"])]
    return RunFile.model_validate(run)


def test_each_edit_is_counted_for_each_editor_that_draws_it() -> None:
    run = two_editors()
    perturber = run.stages["perturber"]
    assert perturber.editors == ("editor", "soft")
    assert (perturber.num_edits(), perturber.num_edits("editor"), perturber.num_edits("soft")) == (3, 2, 1)
    estimate = estimate_run(run, make_plan(run))
    assert (estimate.num_sources, estimate.num_edits, estimate.num_placebos) == (6, 18, 12)
    samples = {stage.name: stage.num_samples for stage in estimate.stages}
    assert samples == {"captioner": 6, "perturber": 6, "editor": 18, "soft": 12, "verifier": 30}


@pytest.mark.parametrize(
    ("strategies", "said"),
    [
        ({"background": ["editor"]}, "who draws edits of kind colour"),
        ({"*": ["editor", "softer"]}, r"strategies\.\*: 'softer' is no editor behind it; there are editor, soft"),
        ({"*": ["editor"]}, "nothing is left to draw for the editor 'soft'"),
        ({"weather": ["soft"], "*": ["editor"]}, "`edits` asks for no such edit; it has background, colour"),
        ({}, "'editor' and 'soft' are both of kind editor"),
    ],
)
def test_strategies_that_do_not_fit_the_stages_are_refused(strategies: dict[str, list[str]], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        two_editors(strategies=strategies)


def test_rounds_spend_as_many_edits_only_where_each_kind_has_as_many_editors() -> None:
    content = two_editors().model_dump() | {"rounds": 2}
    with pytest.raises(ValidationError, match="2 rounds need as many editors in `strategies` for each kind"):
        RunFile.model_validate(content)


def test_a_cut_is_for_one_editor() -> None:
    content = two_editors().model_dump()
    content["stages"]["soft"]["early_rejection"] = {}
    with pytest.raises(ValidationError, match=r"stages\.soft\.early_rejection: a cut is found for one editor"):
        RunFile.model_validate(content)


@pytest.mark.slow
def test_a_run_of_two_editors_has_a_placebo_of_each_and_resumes_to_the_same_bytes(
    generation_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifiers, "in_session", lambda: False)
    run = two_editors()
    rundir, plan = open_run(run, str(tmp_path / "run"))
    run_phases(("generate", "probe"), run, rundir, plan)
    assert verify_run(rundir) == []
    rows = rundir.candidates().to_pylist()
    assert {row["key"].split("_", 1)[1] for row in rows if row["role"] == "placebo"} == {
        "placebo_editor", "placebo_soft",
    }  # fmt: skip
    drawn = {(row["edit_kind"], row["edit_strategy"]) for row in rows if row["role"] == "counterfactual"}
    assert drawn == {("background", "editor"), ("background", "soft"), ("colour", "editor")}
    by_key = {sample.key: sample for index in rundir.done() for sample in rundir.read_shard(index)}
    both = [key for key, sample in by_key.items() if key.endswith("_cf00")]
    # The same edit by both, with pictures of their own.
    for key in both:
        first, second = by_key[key], by_key[key.replace("_cf00", "_cf01")]
        assert first.edit is not None
        assert second.edit is not None
        assert (first.edit.instruction, first.edit.strategy) == (second.edit.instruction, "editor")
        assert second.edit.strategy == "soft"
        assert bytes(first.image) != bytes(second.image)
        assert second.provenance.keys() >= {"soft"}
        assert "editor" not in second.provenance
    weakness = rundir.read_json("weakness.json")
    assert {(row["kind"], row["strategy"]) for row in weakness["by_strategy"]} == drawn
    run_phases(("report",), run, rundir, plan)
    assert "Which editor finds what" in rundir.storage.read("report/index.html").decode()
    files = files_of_shards(rundir)
    make_shard_again(run, rundir, plan)
    assert files_of_shards(rundir) == files


@pytest.mark.slow
def test_four_strategies_and_five_signals_keep_their_bytes_where_workers_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.studies.chaos.injection, "ACTOR_PAUSE_S", 2.0)
    few = (
        "data.train.count=400",
        "data.near_duplicates=off",
        "data.num_sources=6",
        "shards.sources_per_shard=2",
        "stages.instruct.num_inference_steps=1",
        "stages.guided.num_inference_steps=1",
        "groups=[[perturber,instruct,guided,swap,remover,verifier]]",
    )
    run = load_run_file(ROOT / "configs/strategies.yaml", few)
    assert len(run.stages["perturber"].editors) == 4
    assert len(run.stages["verifier"].signals) == 5
    study = Study(run=run, folder=tmp_path / "study", faults=["actor"], num_kills=2)
    trials = [trial for trial in study.trials() if trial.fault == "actor"]
    assert sum(trial.num_kills for trial in trials) == 2
    kinds = ("lost", "duplicated", "different", "leftover")
    assert {trial.counts[kind] for trial in trials for kind in kinds} == {0}
    assert {trial.counts["samples"] for trial in trials} == {6 * (1 + 4 + 6)}
