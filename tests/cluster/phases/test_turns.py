"""A run with edits of two turns: what is planned and refused, its weakness rows, the same bytes after a kill."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from rounds_runs import files_of_shards, make_shard_again, rounds_run

from cluster.phases import classifiers
from cluster.phases.pipeline import open_run, run_phases
from engine.audit.files import verify_run
from engine.plan.estimate import estimate_run
from engine.plan.plan import make_plan
from engine.runfile.run import RunFile


def two_turns(**changes: object) -> RunFile:
    """Return the demo with a few sources, whose edits of background are followed by one of colour."""
    run = rounds_run(1, num_sources=4, num_validation=2, per_shard=3).model_dump()
    run["stages"]["perturber"]["turns"] = {"background": ["colour"]}
    return RunFile.model_validate(run | changes)


def test_each_turn_is_planned_as_an_edit_and_each_placebo_of_more_turns_as_a_placebo() -> None:
    run = two_turns()
    estimate = estimate_run(run, make_plan(run))
    assert (estimate.num_sources, estimate.num_edits, estimate.num_placebos) == (6, 18, 12)
    samples = {stage.name: stage.num_samples for stage in estimate.stages}
    assert samples == {"captioner": 6, "perturber": 6, "editor": 30, "verifier": 30}


def test_a_run_without_turns_has_the_digest_that_it_had_before_there_were_any() -> None:
    assert "turns" not in json.dumps(rounds_run(1).stages["perturber"].changes())
    assert "turns" in two_turns().stages["perturber"].changes()


def test_rounds_spend_as_many_edits_only_where_each_kind_has_as_many_turns() -> None:
    with pytest.raises(ValidationError, match="2 rounds need as many `turns` for each kind"):
        two_turns(rounds=2)


def test_a_cut_is_for_edits_of_one_turn() -> None:
    stages = two_turns().model_dump()["stages"]
    stages["editor"]["early_rejection"] = {}
    with pytest.raises(ValidationError, match=r"stages\.editor\.early_rejection: a cut is found for edits of one turn"):
        two_turns(stages=stages)


@pytest.mark.slow
def test_a_run_of_two_turns_has_rows_of_its_own_and_resumes_to_the_same_bytes(
    generation_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifiers, "in_session", lambda: False)
    run = two_turns()
    rundir, plan = open_run(run, str(tmp_path / "run"))
    run_phases(("generate", "probe"), run, rundir, plan)
    assert verify_run(rundir) == []
    by_key = {sample.key: sample for index in rundir.done() for sample in rundir.read_shard(index)}
    both = [sample for key, sample in by_key.items() if key.endswith("_t2") and sample.role == "counterfactual"]
    assert both
    for sample in both:
        first = by_key[sample.drawn_on]
        assert sample.edit is not None
        assert first.edit is not None
        assert (first.edit.kind, sample.edit.kind, sample.edit.turn) == ("background", "background+colour", 2)
        assert sample.edit.after.startswith(f"{first.edit.after} + ")
        assert bytes(sample.image) != bytes(first.image)
        assert by_key[f"{sample.source_key}_placebo_t2"].drawn_on == f"{sample.source_key}_placebo"
    weakness = rundir.read_json("weakness.json")
    edits = {row["kind"]: row["n_edits"] for row in weakness["by_kind"]}
    assert edits == {"background": 6, "background+colour": len(both), "colour": 6}
    run_phases(("report",), run, rundir, plan)
    assert "background+colour" in rundir.storage.read("report/index.html").decode()
    files = files_of_shards(rundir)
    make_shard_again(run, rundir, plan)
    assert files_of_shards(rundir) == files
