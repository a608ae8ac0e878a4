"""Early rejection: what the run file may say, the pilot and its cut, and where what was dropped is counted and kept."""

from collections import Counter
from pathlib import Path

import pytest
from early_runs import early_run, early_run_file, results_of
from pydantic import ValidationError
from repository import DEMO, ONE_CLIP
from rounds_runs import rounds_run
from tint_runs import contents

from cluster.cli.main import main
from cluster.cli.plan_text import plan_lines
from cluster.dataflow.shard_row import ShardRow
from cluster.dataflow.stage_group import apply_stage
from cluster.phases.generate import generate_run
from cluster.phases.retry import retry_run
from engine.audit.exactness import compare_runs
from engine.audit.files import verify_run
from engine.errors import RunDirectoryError, SelectionError
from engine.plan.plan import make_plan
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory, marker_path, shard_path
from engine.run.retry import Retry, commit_retried
from engine.run.samples import read_samples
from engine.runfile.editor import EditorConfig, PreviewingEditorConfig
from engine.runfile.load import dump_run_file, load_run_file
from engine.runfile.run import RunFile
from engine.sample import Sample
from engine.selection.early import (
    as_pilot,
    cut_path,
    early_editor,
    make_cut,
    read_cut,
    read_cuts,
    read_previewed,
    run_with_cut,
    split_pilot,
)
from engine.selection.labels import LabelRow, match_labels
from engine.selection.repartition import open_selection, select_shard
from engine.selection.selection import change_thresholds, check_verdicts, read_scored, tally_changes, thresholds_of
from engine.shards.marker import Counts, Marker, add_counts
from engine.verdicts.rule import EARLY


def without_verifier(content: dict[str, object]) -> dict[str, object]:
    return {name: stage for name, stage in content.items() if name != "verifier"}


def test_a_preview_without_a_verifier_behind_it_foretells_nothing(tmp_path: Path) -> None:
    content = early_run_file(tmp_path).model_dump()
    with pytest.raises(ValidationError, match=r"stages\.editor\.early_rejection: it foretells a verdict, and no stage"):
        RunFile.model_validate(content | {"stages": without_verifier(content["stages"])})
    stages = content["stages"]
    turned = {"verifier": stages["verifier"], "editor": stages["editor"]}
    with pytest.raises(ValidationError, match="no stage of kind verifier comes behind"):
        RunFile.model_validate(content | {"stages": turned, "groups": []})


def test_the_models_of_previews_are_found_beside_the_run_file(tmp_path: Path) -> None:
    run = load_run_file(
        DEMO, ["stages.editor.early_rejection={decoder: {name: zoo/editor}, model: {name: zoo/verifier}}"]
    )
    path = tmp_path / "run.yaml"
    path.write_text(dump_run_file(run).replace("name: zoo/verifier", "name: ./clip", 1))
    name, editor, early = early_editor(load_run_file(path))
    assert (name, early.model.name) == ("editor", str(tmp_path / "clip"))
    assert isinstance(editor, EditorConfig)
    path.write_text(dump_run_file(run))
    assert load_run_file(path) == run


def test_a_pilot_is_the_first_shards_of_the_plan_in_any_order(tmp_path: Path) -> None:
    run = early_run_file(tmp_path)
    assert split_pilot(run, [3, 1, 0, 2]) == ([0, 1], [2, 3])
    assert split_pilot(run, [5, 9]) == ([5, 9], [])
    assert split_pilot(load_run_file(DEMO), [1, 0]) == ([], [0, 1])


def test_a_pilot_differs_in_its_editor_alone(tmp_path: Path) -> None:
    run = early_run_file(tmp_path)
    pilot = as_pilot(run)
    editor = pilot.stages["editor"]
    assert isinstance(editor, PreviewingEditorConfig)
    assert (editor.clip, editor.least, editor.cut, editor.checks) == (run.stages["verifier"].model, None, None, {})
    assert {name: stage for name, stage in pilot.stages.items() if name != "editor"} == {
        "verifier": run.stages["verifier"]
    }
    other = early_run_file(tmp_path, model={"name": "zoo/captioner"})
    assert as_pilot(other).stages["editor"].clip.name == "zoo/captioner"
    demo = load_run_file(DEMO)
    assert as_pilot(demo) is demo


def test_a_cut_follows_from_the_pilot_and_is_read_back_with_the_same_hash(tmp_path: Path) -> None:
    rundir, cut = early_run(tmp_path)
    assert cut.pilots == (0, 1)
    assert cut.least is not None
    assert cut.num_previewed == 18
    assert set(cut.checks) == {"image", "text_source", "text_edit", "directional", "contrast"}
    assert cut.checks["image"].floor == 0.3
    assert 0.005 < cut.checks["image"].spread < 0.06
    assert read_cut(rundir, 1) == cut
    assert read_cuts(rundir) == {cut.sha256: cut}
    editor = cut.apply_to(rundir.run()).stages["editor"]
    assert (editor.least, editor.cut, editor.checks) == (cut.least, cut.sha256, cut.checks)
    # Who lost the file finds the same one again.
    rundir.storage.delete(cut_path(1))
    assert make_cut(rundir.run(), rundir, [0, 1], [2, 3], 1) == cut


def test_a_cut_that_is_there_is_never_changed(tmp_path: Path) -> None:
    rundir, cut = early_run(tmp_path, shards=[])
    rundir.storage.delete(marker_path(0))
    commit_shard(rundir, 0, rundir.plan().keys(0), _sources(rundir, 0), {})
    assert make_cut(rundir.run(), rundir, [0, 1], [2, 3], 1) == cut


def test_another_cut_than_the_one_that_made_shards_is_refused(tmp_path: Path) -> None:
    rundir, _ = early_run(tmp_path)
    rundir.storage.delete(cut_path(1))
    rundir.storage.delete(marker_path(0))
    commit_shard(rundir, 0, rundir.plan().keys(0), _sources(rundir, 0), {})
    with pytest.raises(RunDirectoryError, match=r"2 shards were made by a cut that is missing.*done/000002\.json"):
        make_cut(rundir.run(), rundir, [0, 1], [2, 3], 1)


def _sources(rundir: RunDirectory, index: int) -> list[Sample]:
    return [one for one in results_of(rundir.run(), index) if isinstance(one, Sample) and one.role == "source"]


def test_a_file_that_is_no_cut_is_named(tmp_path: Path) -> None:
    rundir, _ = early_run(tmp_path)
    for content in (b"{}", b'{"checks": 3}', b'{"checks": {}, "pilots": 1}'):
        rundir.storage.write(cut_path(1), content)
        with pytest.raises(RunDirectoryError, match="no cut that this version wrote"):
            read_cut(rundir, 1)


def test_a_pilot_that_allows_no_cut_leaves_the_run_as_it_is(tmp_path: Path) -> None:
    rundir, cut = early_run(tmp_path, shards=[], false_reject=0.02)
    assert cut.least is None
    assert "149 on: raise pilot_shards" in cut.describe()
    run = rundir.run()
    assert cut.apply_to(run) is run
    assert run_with_cut(run, read_cuts(rundir), cut.sha256) is run


def test_a_shard_is_made_again_by_the_cut_that_its_marker_names(tmp_path: Path) -> None:
    rundir, cut = early_run(tmp_path)
    run = rundir.run()
    assert run_with_cut(run, {cut.sha256: cut}, None) == as_pilot(run)
    assert run_with_cut(run, {cut.sha256: cut}, cut.sha256) == cut.apply_to(run)
    with pytest.raises(RunDirectoryError, match="shards were made by the cut 012345678901, which is not in the folder"):
        run_with_cut(run, {}, "0123456789012345")


def test_a_marker_without_a_cut_says_nothing_of_it() -> None:
    marker = Marker(shard=0, plan="p", files={}, counts=Counts(), keys=None, seconds={}, versions={})
    assert b"early" not in marker.to_json()
    named = Marker(**{**{name: getattr(marker, name) for name in marker.__slots__}, "early": "abc"})
    assert Marker.from_json(named.to_json(), "m") == named


@pytest.mark.parametrize("keep", ["all", "metadata", "none"])
def test_what_was_dropped_is_a_rejected_candidate_with_a_reason_of_its_own(tmp_path: Path, keep: str) -> None:
    rundir, cut = early_run(tmp_path, keep_rejected=keep)
    counts = add_counts(rundir.markers())
    assert 0 < counts.rejected[EARLY] < 18
    assert counts.candidates == counts.accepted + sum(counts.rejected.values()) + counts.quarantined_candidates == 48
    assert {index: marker.early for index, marker in rundir.markers().items()} == {
        0: None, 1: None, 2: cut.sha256, 3: cut.sha256
    }  # fmt: skip
    dropped = [row for row in rundir.candidates().to_pylist() if EARLY in row["reasons"]]
    assert len(dropped) == counts.rejected[EARLY]
    assert all(row["accepted"] is False and row["score_image"] is None for row in dropped)
    assert all(row["score_preview_image"] is not None for row in dropped)
    # No tar has them: every sample there has the same members.
    stored = {
        sample.key for index in rundir.done() for sample in (*rundir.read_shard(index), *rundir.read_rejected(index))
    }
    assert not stored & {row["key"] for row in dropped}
    assert verify_run(rundir) == []
    assert main(["status", rundir.storage.root]) == 0


@pytest.mark.parametrize("keep", ["all", "metadata", "none"])
def test_a_selection_leaves_them_dropped_and_says_how_many(
    tmp_path: Path, keep: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rundir, cut = early_run(tmp_path, keep_rejected=keep)
    num_dropped = add_counts(rundir.markers()).rejected[EARLY]
    candidates, before = read_scored(rundir), thresholds_of(rundir.run())
    check_verdicts(candidates, before)
    assert tally_changes(candidates, before, before)[0].before.fails[EARLY] == num_dropped
    out = str(tmp_path / "selected")
    assert main(["select", rundir.storage.root, "--set", "min_image=-1", "--out", out]) == 0
    printed = capsys.readouterr().out
    assert f"{num_dropped} edits were dropped early, by their previews" in printed
    selected = RunDirectory.open(out)
    assert add_counts(selected.markers()).rejected[EARLY] == num_dropped
    assert selected.marker(2).early == cut.sha256
    assert read_cuts(selected) == {cut.sha256: cut}
    assert verify_run(selected) == []
    # And back again: nothing of them was lost on the way.
    run = change_thresholds(selected, ["min_image=0.3"])
    if keep == "all":
        back = open_selection(selected, run, str(tmp_path / "back"))
        for index in selected.done():
            select_shard(selected, back, run, index)
        assert contents(tmp_path / "back") == contents(tmp_path / "run")


def test_a_label_of_one_is_no_label(tmp_path: Path) -> None:
    rundir, _ = early_run(tmp_path)
    candidates = read_scored(rundir)
    dropped = next(one for one in candidates if EARLY in one.verdict.reasons)
    found = match_labels(
        [LabelRow(line=2, key=dropped.key, label="good", fingerprint="")], candidates, thresholds_of(rundir.run())
    )
    assert found.rows == []
    assert list(found.unusable) == ["dropped early: it has no picture, and no thresholds change that"]
    assert any(name.startswith("dropped early ") for name in found.unseen)


@pytest.mark.parametrize("keep", ["all", "metadata", "none"])
def test_retried_groups_are_merged_beside_them(tmp_path: Path, keep: str) -> None:
    rundir, cut = early_run(tmp_path, keep_rejected=keep)
    files, key = rundir.marker(3).files, rundir.plan().keys(3)[0]
    group = [one for one in results_of(rundir.run(), 3, cut) if one.source_key == key]
    whole = [one for one in group if isinstance(one, Sample)]
    lost = [one for one in group if not isinstance(one, Sample)]
    commit_retried(rundir, 3, [key], whole, {})  # what was quarantined of this group comes out well
    assert rundir.marker(3).early == cut.sha256
    assert rundir.marker(3).counts.rejected == rundir_counts(rundir, 3)
    commit_retried(rundir, 3, [key], [*whole, *lost], {})
    assert rundir.marker(3).files == files


def rundir_counts(rundir: RunDirectory, index: int) -> dict[str, int]:
    """Count the rejected edits of a shard by the first reason in their rows."""
    reasons = [row["reasons"][0] for row in rundir.read_rows(index).to_pylist() if not row["accepted"]]
    placebos = [row for row in rundir.read_rows(index).to_pylist() if row["role"] == "placebo" and not row["accepted"]]
    counted = Counter(reasons) - Counter(row["reasons"][0] for row in placebos)
    return dict(counted)


def test_two_runs_are_compared_with_what_they_dropped(tmp_path: Path) -> None:
    one, _ = early_run(tmp_path, "one")
    two, _ = early_run(tmp_path, "two")
    found = compare_runs(one, two)
    assert found.is_exact
    assert found.num_samples == 12 * 6
    assert sum(len(read_samples(one, index)) for index in one.done()) == 12 * 5


def test_a_stage_never_sees_what_was_dropped(tmp_path: Path) -> None:
    run = early_run_file(tmp_path)
    _, cut = early_run(tmp_path)
    samples = [one for one in results_of(run, 2, cut) if isinstance(one, Sample)]
    seen: list[str] = []

    def stage(batch: list[Sample]) -> list[Sample]:
        seen.extend(sample.key for sample in batch)
        return list(batch)

    row = ShardRow(shard=2, planned=[], samples=samples)
    after = apply_stage("verifier", stage, row)
    dropped = {sample.key for sample in samples if sample.verdict and EARLY in sample.verdict.reasons}
    assert dropped
    assert set(seen) == {sample.key for sample in samples} - dropped
    # Groups are still adjacent: what is worked on in parts is worked on by group.
    assert [sample.source_key for sample in after.samples] == sorted(sample.source_key for sample in samples)
    assert {sample.key for sample in after.samples} == {sample.key for sample in samples}


def test_the_plan_says_which_shards_are_the_pilot(tmp_path: Path) -> None:
    lines, _ = plan_lines(early_run_file(tmp_path), str(tmp_path / "none"))
    assert "pilot       2 shards are drawn to the end; by their scores 'editor' drops edits of 2 others" in lines
    (line,) = [line for line in plan_lines(early_run_file(tmp_path, pilot_shards=9), "none")[0] if line[:5] == "pilot"]
    assert line.endswith("none, lower stages.editor.early_rejection.pilot_shards (it is 9)")
    assert not [line for line in plan_lines(load_run_file(DEMO), "none")[0] if line.startswith("pilot")]


def test_previews_are_read_with_the_split_keys_of_their_sources(tmp_path: Path) -> None:
    rundir, _ = early_run(tmp_path)
    edits = read_previewed(rundir, [0, 1])
    assert len(edits) == 18
    plan = rundir.plan()
    keys = [key for index in (0, 1) for key in plan.keys(index)]
    assert {edit.split_key for edit in edits} == {plan.split_keys()[key] for key in keys}
    assert all(abs(edit.final["image"] - edit.preview["image"]) < 0.1 for edit in edits)


def small_run(num_sources: int = 16) -> RunFile:
    """The zoo's models on a few sources, with edits so mild that the verifier turns many of them down."""
    run = rounds_run(1, num_sources=num_sources, per_shard=4).model_dump()
    run["data"] |= {"num_validation_sources": 0}
    run["data"]["train"] |= {"captions": True}
    # CLIP's own checks are those that previews have too.
    demo = load_run_file(DEMO, ONE_CLIP).model_dump()["stages"]
    editor = demo["editor"] | {"num_inference_steps": 6, "batch_size": 16, "placement": {"replicas": [1, 1]}}
    editor["early_rejection"] = {"pilot_shards": 2, "false_reject": 0.45, "ahead": 1}
    # Without a second try two edits of one source are often alike, and one of them is quarantined.
    perturber = demo["perturber"] | {"edits": {"background": 2}, "severities": [0.3, 1.0], "retries": 0}
    run["stages"] = {"perturber": perturber, "editor": editor, "verifier": demo["verifier"]}
    run["groups"] = [("perturber", "editor", "verifier")]
    return RunFile.model_validate(run)


@pytest.mark.slow
def test_a_run_is_cut_by_its_own_pilot_and_resumes_to_the_same_bytes(generation_ray: None, tmp_path: Path) -> None:
    run = small_run()
    plan = make_plan(run)
    rundir = RunDirectory.create(str(tmp_path / "run"), run, plan)
    generate_run(run, rundir, plan)
    cut = read_cut(rundir, 1)
    assert cut.least is not None, cut.describe()
    markers = rundir.markers()
    assert [markers[index].early for index in range(4)] == [None] * 2 + [cut.sha256] * 2
    assert all(EARLY not in markers[index].counts.rejected for index in range(2))
    dropped = sum(markers[index].counts.rejected.get(EARLY, 0) for index in (2, 3))
    assert 2 < dropped < 16
    made_by = {row["editor"]["previews"]["cut"] for row in rundir.read_rows(3)["provenance"].to_pylist()}
    assert made_by == {cut.sha256}
    placebos = [row for row in rundir.read_rows(3).to_pylist() if row["role"] == "placebo"]
    assert len(placebos) == 4
    assert all(row["score_preview_image"] is None and EARLY not in row["reasons"] for row in placebos)

    # One of the shards that it cut and the cut itself are lost: the same come back.
    before = contents(tmp_path / "run")
    data = rundir.storage.read(cut_path(1))
    for path in (marker_path(3), shard_path(3), cut_path(1)):
        rundir.storage.delete(path)
    generate_run(run, rundir, plan)
    assert contents(tmp_path / "run") == before
    assert rundir.storage.read(cut_path(1)) == data
    assert rundir.marker(3).early == cut.sha256

    # What is quarantined, in the pilot too, is made again by what made it, and fails again: nothing else changes.
    sources = Retry.of(rundir).sources
    assert {1, 3} <= set(sources)
    retry_run(run, rundir)
    assert contents(tmp_path / "run") == before
    with pytest.raises(SelectionError, match=EARLY):
        Retry.of(rundir, [EARLY])
