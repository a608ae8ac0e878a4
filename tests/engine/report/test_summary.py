"""summary.json: every number of the page, by arm, by reason and by phase; and the words that follow from them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from report_runs import ARMS, SECONDS, evaluation, finished_run, generated_run, reinforcement

from cluster.cli.main import main
from engine.canonical import as_json
from engine.figures.__main__ import main as figures_main
from engine.figures.figures import read_figures
from engine.report.page import SUMMARY, write_report
from engine.report.results import picture_shards, read_results
from engine.report.rows import choose_rows
from engine.report.schema import SummaryFile, summary_schema
from engine.report.summary import Summary, build_summary
from engine.report.views.advice import next_steps, verdict_reasons
from engine.runfile.fields import Placement
from engine.runfile.run import RunFile
from engine.shards.marker import Counts, FileRecord, Marker
from engine.wording import points


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Summary, RunFile]:
    rundir, run = finished_run(tmp_path_factory.mktemp("whole"))
    write_report(rundir, run)
    return json.loads(rundir.storage.read(SUMMARY), parse_constant=pytest.fail), run


def test_each_headline_figure_has_every_arm_with_its_interval(whole: tuple[Summary, RunFile]) -> None:
    summary, _ = whole
    for name in ("worst_group_accuracy", "conflict_accuracy", "accuracy_biased"):
        assert list(summary[name]) == list(ARMS)
        for figure in summary[name].values():
            assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1
            assert figure["n"] > 0
    assert summary["conflict_accuracy"]["patient"]["value"] == pytest.approx(0.2)
    assert summary["conflict_accuracy"]["reinforced"]["value"] == pytest.approx(0.75)
    worst = summary["worst_group_accuracy"]["patient"]
    assert (worst["group"], worst["n"], worst["num_groups"]) == ("boot, background snow", 20, 4)
    # 4 of 20; each of the four intervals is at 1 - 0.05 / 4.
    assert (worst["low"], worst["high"]) == pytest.approx((0.0381, 0.4977), abs=1e-3)


def test_the_counts_add_up_to_the_candidates(whole: tuple[Summary, RunFile]) -> None:
    counts = whole[0]["counts"]
    assert counts["sources"] == 6
    assert counts["candidates"] == 18
    assert counts["accepted"] + sum(counts["rejected"].values()) + counts["quarantined_candidates"] == 18
    assert counts["rejected"] == {"min_image": 6}
    assert counts["quarantined"] == {"not_json": 6}


def test_accept_rates_are_by_kind_and_by_every_failed_check(whole: tuple[Summary, RunFile]) -> None:
    rates = whole[0]["accept_rate"]
    (background,) = rates["by_kind"]
    assert (background["name"], background["value"], background["n"]) == ("background", 0.5, 12)
    assert {check["name"]: check["value"] for check in rates["by_check"]} == {"min_image": 0.5, "blank": 0.5}
    assert {score["name"]: score["accepted_median"] for score in rates["by_score"]} == {
        "directional": 0.4,
        "image": 0.8,
    }


def test_seconds_are_by_phase_and_by_stage(whole: tuple[Summary, RunFile]) -> None:
    summary, _ = whole
    assert summary["seconds"] == SECONDS
    assert summary["seconds_by_stage"] == {"editor": 4.0, "verifier": 1.0}
    assert summary["rates"]["seconds_per_accepted"] == pytest.approx(8.0 / 6)


def test_the_weakness_planted_in_the_answers_comes_first(whole: tuple[Summary, RunFile]) -> None:
    first = whole[0]["weakness"]["cells"][0]
    assert (first["kind"], first["corrected_drop"]) == ("background", 1.0)


def test_rows_count_flips_and_cures(whole: tuple[Summary, RunFile]) -> None:
    assert [(row["flips"], row["cures"]) for row in whole[0]["pictures"]] == [(1, 1)] * 6


def test_the_verdict_gives_the_reasons_of_the_gate_and_what_was_measured(whole: tuple[Summary, RunFile]) -> None:
    summary, _ = whole
    assert summary["verdict"] == "ship"
    assert summary["reasons"][0] == "A loss of 1.0 points, allowed are 0.5."
    assert any("McNemar" in reason and "+55.0 points" in reason for reason in summary["reasons"])


def test_a_run_that_only_generated_has_a_summary_without_figures(tmp_path: Path) -> None:
    rundir, run = generated_run(tmp_path, num_shards=1)
    summary = build_summary(read_results(rundir, run))
    assert summary["verdict"] == "none yet"
    assert summary["conflict_accuracy"] == {}
    assert summary["weakness"] is None
    assert any("1 of 2 shards" in step for step in summary["next_steps"])
    assert any("counterforge probe" in step for step in summary["next_steps"])


def test_without_attributes_only_the_overall_accuracy_is_there(tmp_path: Path) -> None:
    rundir, run = finished_run(tmp_path)
    rundir.write_json("evaluation.json", evaluation(attributes=()))  # type: ignore[arg-type]  # JSON
    summary = build_summary(read_results(rundir, run))
    assert set(summary["conflict_accuracy"].values()) == {None}
    assert summary["accuracy_biased"]["patient"]["value"] is not None


def test_a_model_that_forgot_gets_the_remedy_for_forgetting(tmp_path: Path) -> None:
    rundir, run = finished_run(tmp_path)
    rundir.write_json("reinforce.json", reinforcement("do not ship"))  # type: ignore[arg-type]  # JSON
    summary = build_summary(read_results(rundir, run))
    assert "data.num_sources" in next_steps(summary, run)[0]
    summary["accuracy_biased"]["reinforced"]["value"] = summary["accuracy_biased"]["patient"]["value"] - 0.1
    assert "reinforce.distillation" in next_steps(summary, run)[0]


def test_a_generator_that_breaks_more_than_its_edits_mean_is_named(whole: tuple[Summary, RunFile]) -> None:
    summary = json.loads(json.dumps(whole[0]))
    summary["weakness"]["overall"] |= {"artefact_drop": 0.3, "corrected_drop": 0.1}
    assert any("editor alone costs 30 points" in step for step in next_steps(summary, whole[1]))


def test_a_kind_of_edit_that_the_verifier_turns_down_is_named(whole: tuple[Summary, RunFile]) -> None:
    summary = json.loads(json.dumps(whole[0]))
    assert not any("Hardly any edit" in step for step in next_steps(summary, whole[1]))
    summary["accept_rate"]["by_kind"].append({"name": "lighting", "value": 0.0, "low": 0.0, "high": 0.04, "n": 90})
    assert any("Hardly any edit of lighting was accepted" in step for step in next_steps(summary, whole[1]))


def test_a_loss_on_the_test_set_beyond_the_guard_is_said_even_where_it_ships(whole: tuple[Summary, RunFile]) -> None:
    summary, run = whole
    lost = json.loads(json.dumps(summary)) | {"verdict": "ship"}
    lost["accuracy_biased"]["patient"]["value"], lost["accuracy_biased"]["reinforced"]["value"] = 0.99, 0.98
    assert any("On the test set it lost 1.0 points, more than the 0.5" in step for step in next_steps(lost, run))
    lost["accuracy_biased"]["reinforced"]["value"] = 0.987
    assert not any("On the test set it lost" in step for step in next_steps(lost, run))


def test_no_weakness_is_claimed_that_is_not_significant(whole: tuple[Summary, RunFile]) -> None:
    summary = json.loads(json.dumps(whole[0]))
    for cell in summary["weakness"]["cells"]:
        cell["significant"] = False
    assert not any("weakness found" in reason for reason in verdict_reasons(summary, whole[1]))


def test_json_has_null_where_a_number_is_undefined() -> None:
    assert as_json({"a": [float("nan"), 1.0], "b": {"c": float("inf")}}) == {"a": [None, 1.0], "b": {"c": None}}


def test_pictures_come_from_shards_spread_over_the_run_within_the_budget() -> None:
    markers = {
        index: Marker(
            shard=index,
            plan="p",
            files={f"shards/{index:06d}.tar": FileRecord(blake3="", bytes=100, samples=1)},
            counts=Counts(),
            keys=None,
            seconds={},
            versions={},
        )
        for index in range(10)
    }
    assert picture_shards(markers, budget=400) == [0, 2, 5, 7]
    assert picture_shards(markers, budget=1) == [0]
    assert picture_shards(markers) == list(range(10))
    assert picture_shards({}) == []


def test_no_rows_are_chosen_from_none() -> None:
    assert choose_rows([], 5) == []


def test_a_run_becomes_figures_for_the_readme(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rundir, run = finished_run(tmp_path / "run")
    command = ["figures", "--run", str(rundir.storage), "--figures", str(tmp_path / "figures")]
    monkeypatch.setattr("sys.argv", command)
    assert figures_main() == 1
    assert "run `counterforge report` first" in capsys.readouterr().err
    write_report(rundir, run)
    assert figures_main() == 0
    figures = {figure.name: figure for figure in read_figures("demo", tmp_path / "figures")[0]}
    assert figures["conflict_accuracy.patient"].value == pytest.approx(0.2)
    assert figures["candidates.accepted"].value + figures["candidates.rejected"].value < 1
    assert figures["weakness.background.corrected_drop"].low is not None
    assert figures["seconds.all"].value == sum(SECONDS.values())
    assert "conflict_accuracy.reinforced" in capsys.readouterr().out
    assert (tmp_path / "figures" / "demo.jpg").read_bytes().startswith(b"\xff\xd8")


def test_a_real_summary_is_as_the_schema_says(whole: tuple[Summary, RunFile], tmp_path: Path) -> None:
    schema = summary_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    rundir, run = generated_run(tmp_path, num_shards=0)
    for summary in (whole[0], build_summary(read_results(rundir, run))):
        assert [error.message for error in validator.iter_errors(summary)] == []
        SummaryFile.model_validate_json(json.dumps(summary))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"verdict": "maybe"}, "is not one of"),
        ({"surprise": 1}, "'surprise' was unexpected"),
        ({"confidence": 95}, "greater than the maximum"),
        ({"counts": {}}, "is a required property"),
    ],
)
def test_a_summary_that_is_not_as_the_schema_says_is_told(
    whole: tuple[Summary, RunFile], change: Summary, words: str
) -> None:
    errors = Draft202012Validator(summary_schema()).iter_errors({**whole[0], **change})
    assert any(words in error.message for error in errors)


def test_the_schema_names_every_field_in_the_order_of_the_file(whole: tuple[Summary, RunFile]) -> None:
    assert list(summary_schema()["properties"]) == list(whole[0])


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--of", "summary"]) == 0
    assert json.loads(capsys.readouterr().out) == summary_schema()


def test_an_accepted_edit_has_a_price_where_gpus_have_one(tmp_path: Path) -> None:
    rundir, run = generated_run(tmp_path)
    results = read_results(rundir, run)
    assert build_summary(results)["rates"]["price_per_accepted"] is None
    placed = run.stages["captioner"].model_copy(update={"placement": Placement(num_gpus=0.5)})
    priced = run.model_copy(
        update={
            "stages": {"editor": placed},
            "report": run.report.model_copy(update={"gpu_price_per_hour": 3600.0}),
        }
    )
    # Two shards of two seconds each in the editor, on half a GPU, for six accepted edits.
    assert build_summary(replace(results, run=priced))["rates"]["price_per_accepted"] == pytest.approx(2 / 6)


def test_half_a_tenth_of_a_point_is_rounded_as_a_person_would() -> None:
    # In floating point 100 * 0.0055 is a little less than 0.55.
    assert [points(value) for value in (0.0055, -0.0055, 0.00549, 0.0)] == ["+0.6", "−0.6", "+0.5", "0.0"]
