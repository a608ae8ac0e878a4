"""A probe without a finding says whether anything was tested, and which drop it could have found."""

import json
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from report_runs import answer, evaluation, finished_run, generated_run, reinforcement
from tiny_runs import tiny_plan, tiny_results

from cluster.cli.main import main
from engine.probe.findings import ClassifierPredictions, findings
from engine.report.markdown import markdown_report
from engine.report.page import PAGE, write_report
from engine.report.results import read_results
from engine.report.summary import Summary, build_summary
from engine.report.views.advice import headline, next_steps, weakest_cell
from engine.report.views.no_finding import no_weakness, smallest_drop, untested
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory
from engine.runfile.fields import ModelConfig
from engine.runfile.perturber import PerturberConfig
from engine.runfile.probe import ProbeConfig
from engine.runfile.run import RunFile
from engine.sample import Rejection, Sample, Verdict
from engine.statistics import paired_test

Result = Sample | Rejection
NOTHING = (
    "Nothing was tested: no edit was accepted (edits that were drawn with the classifier's answers do not count), so "
    "this says nothing about the classifier."
)


def test_without_an_accepted_edit_nothing_was_tested(tmp_path: Path) -> None:
    rundir, run = probed(tmp_path, rejected)
    summary = build_summary(read_results(rundir, run))
    assert summary["reasons"][-1] == NOTHING
    assert summary["next_steps"] == [
        "Only 0\u202f% of the edits were accepted, most often for min image: look at the rejected pictures on the "
        "page; editor or thresholds may not suit these images."
    ]
    assert "hurt significantly" not in markdown_report(summary, run)
    weak = section(rundir, run, "weak")
    assert NOTHING in weak
    assert "placebo beside it" not in weak
    assert "min_sources" not in weak


def test_with_too_few_sources_that_is_said_with_both_numbers(tmp_path: Path) -> None:
    rundir, run = probed(tmp_path, lambda results: results, min_sources=10)
    summary = build_summary(read_results(rundir, run))
    assert summary["reasons"][-1] == (
        "Too few to test: 6 edits of 6 sources were accepted, and no class, kind or value of an edit has the 10 "
        "sources that probe.min_sources asks for, so this says nothing about the classifier."
    )
    assert "Raise data.num_sources, or lower probe.min_sources (now 10)." in summary["next_steps"]


def test_without_a_significant_cell_the_drop_that_could_have_been_found_is_said(tmp_path: Path) -> None:
    rundir, run = probed(tmp_path, lambda results: results, is_right=True)
    summary = build_summary(read_results(rundir, run))
    cells = summary["weakness"]["num_cells"] + 1
    assert summary["reasons"][-1] == (
        f"No edit clearly costs more than 5 points of accuracy: {cells} cells of class, kind and value were tested on "
        "6 edits of 6 sources. With at most 6 sources in a cell no drop below 100 points could have been found."
    )
    weakness = summary["weakness"]
    poor = {**weakness, "overall": {**weakness["overall"], "accuracy_source": 0.02}}
    assert no_weakness(poor).endswith(
        "right on only 2.0\u202f% of these sources untouched, so edits have little to cost."
    )


@pytest.mark.parametrize(("num_sources", "losses"), [(6, 6), (10, 7), (80, 11), (5000, 258)])
def test_the_smallest_drop_is_the_first_that_is_significant(num_sources: int, losses: int) -> None:
    drop = smallest_drop(num_sources, 0.05, 0.95)
    assert drop == losses / num_sources

    def p_value(count: int) -> float:
        return paired_test(pa.array([-1.0] * count + [0.0] * (num_sources - count)).to_numpy(), allowed)

    allowed = pa.array([0.05] * num_sources).to_numpy()
    assert p_value(losses) <= 0.05 < p_value(losses - 1)
    assert smallest_drop(3, 0.05, 0.95) is None


def test_a_kind_of_edit_that_is_significant_by_itself_is_a_finding() -> None:
    cell = {"level": "kind", "kind": "background", "after": None, "class_name": None, "n_sources": 40}
    cell |= {"significant": True, "corrected_drop": 0.3, "corrected_drop_low": 0.2, "corrected_drop_high": 0.4}
    found = weakest_cell({"drop": "corrected_drop", "cells": [], "by_kind": [cell]})
    assert found == (
        "changing the background in pictures of any class costs 30 points of accuracy (20 to 40, on 40 sources)"
    )


def test_what_a_reader_must_know_of_the_outputs_stands_before_the_finding(tmp_path: Path) -> None:
    rundir, run = probed(tmp_path, rejected)
    weakness = rundir.read_json("weakness.json")
    assert isinstance(weakness, dict)
    rundir.write_json("weakness.json", {**weakness, "output_notes": ["the outputs look to be in another order"]})
    reasons = build_summary(read_results(rundir, run))["reasons"]
    assert reasons[-2:] == ["The outputs look to be in another order.", NOTHING]


def test_the_probe_prints_that_nothing_was_tested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rundir, _ = probed(tmp_path, rejected)
    monkeypatch.setattr("cluster.cli.run._run_phase", lambda name, options: rundir)
    assert main(["probe", str(rundir.storage)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == NOTHING
    assert untested(rundir.read_json("weakness.json")) == NOTHING  # type: ignore[arg-type]  # JSON


def test_a_black_box_is_told_what_can_be_done_with_it(tmp_path: Path) -> None:
    rundir, run = probed(tmp_path, lambda results: results, is_right=True)
    box = run.model_copy(update={"probe": run.probe.model_copy(update={"model": None, "callable": "mine:ask"})})
    before = build_summary(read_results(rundir, box))
    assert before["next_steps"][0] == (
        "Go on with `counterforge reinforce`, which scores a function on the test sets and trains nothing."
    )
    scored: dict[str, Any] = {**evaluation(), "comparisons": []}
    scored["arms"] = {"patient": scored["arms"]["patient"]}
    rundir.write_json("evaluation.json", scored)
    after = build_summary(read_results(rundir, box))
    assert headline(after["verdict"], box) == "No verdict: a black box is scored and not trained"
    assert after["reasons"][0].startswith("The classifier is a function, which nothing here can train")
    assert after["next_steps"][0] == (
        "A function (`probe.callable`) cannot be trained here: fine-tune it with your own code on the accepted edits, "
        "WebDataset tars in `shards`, then probe it again with another `probe.version`; or name a checkpoint of "
        "transformers with `probe.model`, then `counterforge run`."
    )
    assert "Not reinforced: a function" in section(rundir, box, "training")
    figures = section(rundir, box, "figures")
    assert "20.0\u202f%" in figures
    assert "real images only" not in figures
    assert "The large numbers" not in figures
    assert "Go on with" not in markdown_report(after, box)


def test_a_missing_placebo_has_its_own_reason_and_remedy(tmp_path: Path) -> None:
    def placebos_rejected(results: list[Result]) -> list[Result]:
        return [
            replace(each, verdict=Verdict(accepted=False, reasons=("min_image",))) if is_placebo(each) else each
            for each in results
        ]

    def without_placebos(results: list[Result]) -> list[Result]:
        return [each for each in results if not is_placebo(each)]

    said = []
    for number, change in enumerate((placebos_rejected, without_placebos)):
        rundir, run = probed(tmp_path / str(number), change)
        said.append([step for step in build_summary(read_results(rundir, run))["next_steps"] if "placebo" in step])
    damage = "so the editor's own damage counts as weakness."
    assert said == [
        [f"The verifier rejected all 6 placebos (the editor cannot leave a picture as it is), {damage}"],
        [f"No source with an accepted edit has an accepted placebo, {damage}"],
    ]
    perturber = PerturberConfig(model=ModelConfig(name="zoo/perturber"), placebo=False)
    without = run.model_copy(update={"stages": {"words": perturber}})
    steps = build_summary(read_results(rundir, without))["next_steps"]
    assert f"This run has no placebo (set stages.words.placebo: true), {damage}" in steps


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": {"counterfactuals": 0}}, "The reasons above say what the training lacked"),
        ({"arms": {"patient": {}}}, "The reasons above say what the training lacked"),
        ({"edits": None}, "Raise data.num_validation_sources (now 0)"),
        ({}, "The probe found no weakness, so there is little to cure"),
    ],
)
def test_what_does_not_ship_gets_the_remedy_of_its_own_reason(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    rundir, run = finished_run(tmp_path)
    training: dict[str, Any] = {**reinforcement("do not ship")}
    if change.pop("edits", 0) is None:
        del training["arms"]["reinforced"]["validation_edits_accuracy"]
    rundir.write_json("reinforce.json", training | change)
    assert words in build_summary(read_results(rundir, run))["next_steps"][0]


def test_edits_that_were_lost_are_not_called_rejected(tmp_path: Path) -> None:
    rundir, run = generated_run(tmp_path)
    summary: Summary = json.loads(json.dumps(build_summary(read_results(rundir, run))))
    summary["counts"] |= {"accepted": 0, "rejected": {}, "quarantined": {"not_json": 18}, "quarantined_candidates": 18}
    assert next_steps(summary, run)[0] == (
        "Only 0\u202f% of the edits were accepted: 18 of 18 could not be processed, most often for not json."
    )
    summary["counts"] |= {"candidates": 0, "quarantined_candidates": 0}
    assert next_steps(summary, run)[-1].startswith("No edit was made of any source")


def section(rundir: RunDirectory, run: RunFile, name: str) -> str:
    """Return the text of a section of the page."""
    write_report(rundir, run)
    html = unescape(rundir.storage.read(PAGE).decode())
    return html.split(f'<section id="{name}"')[1].split("</section>")[0]


def is_placebo(result: Result) -> bool:
    return isinstance(result, Sample) and result.role == "placebo"


def rejected(results: list[Result]) -> list[Result]:
    """Reject every accepted edit, and keep the placebos."""
    no = Verdict(accepted=False, reasons=("min_image",))
    return [
        replace(each, verdict=no) if isinstance(each, Sample) and each.role == "counterfactual" else each
        for each in results
    ]


def probed(
    folder: Path, change: Callable[[list[Result]], list[Result]], *, min_sources: int = 2, is_right: bool = False
) -> tuple[RunDirectory, RunFile]:
    """A probed run of two shards; the classifier is wrong on every edit, or always right."""
    run, plan = tiny_plan(folder)
    probe = ProbeConfig(model=run.probe.model, min_sources=min_sources, num_bootstraps=100)
    run = run.model_copy(update={"probe": probe})
    rundir = RunDirectory.create(str(folder / "run"), run, plan)
    for index in range(plan.num_shards):
        commit_shard(rundir, index, plan.keys(index), change(tiny_results(plan, index)), {})
    samples = [sample for index in rundir.done() for sample in rundir.read_shard(index)]
    table = pa.Table.from_pylist([answer(sample, "reinforced" if is_right else "patient") for sample in samples])
    given = ClassifierPredictions(classifier="patient", digest="d-patient", predictions=table)
    rundir.write_json("weakness.json", findings(given, [], probe)[1])
    return rundir, run
