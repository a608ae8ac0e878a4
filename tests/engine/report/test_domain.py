"""Models that do not know the data are noticed: captions without their class, edits far smaller than their sources."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from report_runs import finished_run
from tiny_runs import CLASSES, tiny_plan, tiny_results

from cluster.cli.main import main
from engine.report.domain import MAX_CAPTIONS, MAX_EDITS, Domain, domain_of, sizes_of
from engine.report.glance import look_into
from engine.report.page import PAGE, write_report
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory
from engine.runfile.run import RunFile
from engine.sample import Rejection, Sample, Verdict
from engine.shards.rows import candidate_table

ALIEN = (
    "Only 0 of 6 captions name their class: where the captioner does not know these images, edits change what is not "
    "there. Take another captioner, or give captions with the data. (Warned below 50\u202f%.)"
)
SMALL = (
    "Edits have 13\u202f% of the edge length of their sources: detail is lost that the classifier may need. Take an "
    "editor for larger pictures, or raise its `size`. (Warned below 50\u202f%.)"
)
SENTENCE = (
    "0 of 6 captions name their class (0\u202f%). The median size of edits is 64 × 48 pixels, that of their sources "
    "500 × 375."
)
KIND = "Hardly any edit of background was accepted. (Warned below 30\u202f%.)"


def test_a_run_out_of_domain_is_said_in_status_and_on_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rundir, run = run_of(tmp_path, caption="a white flower", source=(500, 375), edit=(64, 48))
    assert main(["status", str(rundir.storage)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4:] == [
        "  accepted: background 50.0\u202f% (25.4 to 74.6) of 12",
        f"  {SENTENCE}",
        f"  warning: {ALIEN}",
        f"  warning: {SMALL}",
    ]
    assert main(["status", str(rundir.storage), "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)["seen"]
    assert (seen["num_shards"], seen["domain"]["num_named"], seen["domain"]["edit_size"]) == (2, 0, [64, 48])
    write_report(rundir, run)
    summary = json.loads(rundir.storage.read("report/summary.json"))
    assert summary["domain"]["scale"] == pytest.approx(64 / 500)
    assert [summary["domain"][name] for name in ("num_captions", "num_named")] == [6, 0]
    assert {ALIEN, SMALL} <= set(summary["next_steps"])
    assert SENTENCE in rundir.storage.read(PAGE).decode()


def test_a_run_within_its_domain_is_not_warned_of(tmp_path: Path) -> None:
    rundir, run = run_of(tmp_path, caption="{}s on grass", source=(500, 375), edit=(500, 375))
    seen = look_into(rundir)
    assert seen is not None
    assert (seen.domain.num_captions, seen.domain.num_named, seen.domain.scale) == (6, 6, 1.0)
    assert seen.warnings() == []
    finished, other = finished_run(tmp_path / "finished")
    write_report(finished, other)
    assert json.loads(finished.storage.read("report/summary.json"))["domain"]["warnings"] == []
    assert run.name == other.name


def test_a_kind_of_edit_that_is_rejected_throughout_is_warned_of(tmp_path: Path) -> None:
    rundir, _ = run_of(tmp_path, caption="{}", source=(50, 50), edit=(50, 50), accepted=False)
    seen = look_into(rundir)
    assert seen is not None
    assert seen.warnings() == [KIND]


def test_a_shard_that_cannot_be_read_just_now_is_passed_over(tmp_path: Path) -> None:
    rundir, _ = run_of(tmp_path, caption="{}", source=(50, 50), edit=(50, 50))
    rundir.storage.local_path("shards/000001.parquet").unlink()
    assert look_into(rundir) is None


def test_half_of_the_captions_and_half_of_the_edge_are_enough() -> None:
    enough = Domain(num_captions=10, num_named=5, source_size=(4, 4), edit_size=(2, 2), scale=0.5)
    assert enough.warnings() == []
    less = replace(enough, num_named=4, scale=0.49)
    assert [warning.split(":")[0] for warning in less.warnings()] == [
        "Only 4 of 10 captions name their class",
        "Edits have 49\u202f% of the edge length of their sources",
    ]
    nothing = Domain(num_captions=0, num_named=0, source_size=None, edit_size=None, scale=None)
    assert (nothing.warnings(), nothing.sentence()) == ([], "")


def test_a_class_that_has_no_words_says_nothing_of_the_captions(tmp_path: Path) -> None:
    run, _ = tiny_plan(tmp_path)
    edit = next(result for result in tiny_results(tiny_plan(tmp_path)[1], 0) if result.key.endswith("_cf00"))
    assert isinstance(edit, Sample)
    coded = [replace(edit, class_name="n01440764"), replace(edit, source_key="other", caption="boots")]
    found = domain_of(candidate_table(coded, 0), (), run)
    assert (found.num_captions, found.num_named) == (1, 1)


def test_a_large_run_is_looked_at_here_and_there(tmp_path: Path) -> None:
    run, plan = tiny_plan(tmp_path)
    source, _, edit, *_ = tiny_results(plan, 0)
    assert isinstance(source, Sample)
    assert isinstance(edit, Sample)
    many = [replace(edit, source_key=f"{number}") for number in range(12 * MAX_CAPTIONS)]
    assert domain_of(candidate_table(many, 0), (), run).num_captions == MAX_CAPTIONS
    assert sizes_of([source, *[edit] * 2 * MAX_EDITS]) == [((16, 12), (16, 12))] * MAX_EDITS


def run_of(
    folder: Path, *, caption: str, source: tuple[int, int], edit: tuple[int, int], accepted: bool = True
) -> tuple[RunDirectory, RunFile]:
    """A run of six sources whose captions, sizes and verdicts are as given; {} in a caption is the class."""
    run, plan = tiny_plan(folder)
    rundir = RunDirectory.create(str(folder / "run"), run, plan)

    def changed(result: Sample | Rejection) -> Sample | Rejection:
        if isinstance(result, Rejection):
            return result
        image = blank(source if result.role == "source" else edit)
        result = replace(result, image=image, caption=caption.format(CLASSES[result.label]))
        is_edit = result.role == "counterfactual" and not accepted
        return replace(result, verdict=Verdict(accepted=False, reasons=("min_image",))) if is_edit else result

    for index in range(plan.num_shards):
        results = [changed(result) for result in tiny_results(plan, index)]
        commit_shard(rundir, index, plan.keys(index), results, {})
    return rundir, run


def blank(size: tuple[int, int]) -> bytes:
    output = io.BytesIO()
    Image.new("RGB", size).save(output, "JPEG")
    return output.getvalue()
