"""Selection: other thresholds give what `generate` would have made with them, and a run that every reader accepts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from local_s3 import local_s3
from scored_runs import scored_run
from tiny_runs import tiny_plan, tiny_results

from engine.audit.files import verify_run
from engine.errors import RunDirectoryError, RunFileError, SelectionError, ShardError
from engine.plan.plan import make_plan
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory, marker_path, rejected_path, shard_path
from engine.selection.repartition import open_selection, select_shard
from engine.selection.selection import (
    PIXELS_NOT_KEPT,
    Candidate,
    change_thresholds,
    check_verdicts,
    read_scored,
    tally_changes,
    thresholds_of,
)
from engine.shards.marker import add_counts

LOOSE = {"min_image": 0.2, "min_text": 0.1, "min_directional": 0.1}
STRICT = {"min_image": 0.4, "min_text": 0.1, "min_directional": 0.3}
SETTINGS = [f"{name}={value}" for name, value in STRICT.items()]


def select(rundir: RunDirectory, out: str, settings: list[str]) -> RunDirectory:
    run = change_thresholds(rundir, settings)
    selected = open_selection(rundir, run, out)
    for index in rundir.done():
        select_shard(rundir, selected, run, index)
    return selected


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a run but run.json, which names the code that last wrote to it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "run.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_selection_has_the_bytes_that_generate_makes_with_these_thresholds(tmp_path: Path) -> None:
    selected = select(scored_run(tmp_path, **LOOSE), str(tmp_path / "selected"), SETTINGS)
    generated = scored_run(tmp_path, "generated", **STRICT)
    assert selected.info.digest == generated.info.digest == make_plan(selected.run()).digest
    assert contents(tmp_path / "selected") == contents(tmp_path / "generated")
    assert contents(tmp_path / "selected") != contents(tmp_path / "run")
    assert verify_run(selected) == []


def test_the_source_run_is_left_as_it_is_and_a_selection_can_be_turned_back(tmp_path: Path) -> None:
    rundir = scored_run(tmp_path, **LOOSE)
    before = contents(tmp_path / "run")
    selected = select(rundir, str(tmp_path / "selected"), SETTINGS)
    assert contents(tmp_path / "run") == before
    select(selected, str(tmp_path / "back"), [f"stages.verifier.{name}={value}" for name, value in LOOSE.items()])
    assert contents(tmp_path / "back") == before


def test_a_selection_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    rundir = scored_run(tmp_path, **LOOSE)
    selected = select(rundir, str(tmp_path / "selected"), SETTINGS)
    whole = contents(tmp_path / "selected")
    selected.storage.delete(marker_path(1))
    selected.storage.write(shard_path(1), b"half")
    selected.storage.write(rejected_path(1), b"half")
    kept = selected.storage.local_path(marker_path(0)).stat().st_mtime_ns
    select(rundir, str(tmp_path / "selected"), SETTINGS)
    assert contents(tmp_path / "selected") == whole
    assert selected.storage.local_path(marker_path(0)).stat().st_mtime_ns == kept


def test_shards_still_to_be_made_can_be_generated_into_the_selection(tmp_path: Path) -> None:
    selected = select(scored_run(tmp_path, shards=[0, 2], **LOOSE), str(tmp_path / "selected"), SETTINGS)
    assert selected.pending() == [1, 3]
    scored_run(tmp_path, "selected", **STRICT)
    scored_run(tmp_path, "generated", **STRICT)
    assert contents(tmp_path / "selected") == contents(tmp_path / "generated")


@pytest.mark.parametrize("keep", ["metadata", "none"])
def test_pixels_that_were_not_kept_stay_away_and_are_counted(tmp_path: Path, keep: str) -> None:
    rundir = scored_run(tmp_path, keep_rejected=keep, **STRICT)
    selected = select(rundir, str(tmp_path / "selected"), [f"{name}={value}" for name, value in LOOSE.items()])
    full = scored_run(tmp_path, "full", **LOOSE)
    gained = add_counts(full.markers()).accepted - add_counts(rundir.markers()).accepted
    counts = add_counts(selected.markers())
    assert gained > 0
    assert counts.rejected[PIXELS_NOT_KEPT] == gained
    assert counts.accepted == add_counts(rundir.markers()).accepted
    assert all(sample.image for index in selected.done() for sample in selected.read_shard(index))
    assert verify_run(selected) == []
    # What the marker counts is what the rows and the table say.
    after = tally_changes(read_scored(rundir), thresholds_of(rundir.run()), thresholds_of(selected.run()))[0].after
    assert (after.accepted, after.fails[PIXELS_NOT_KEPT]) == (counts.accepted, gained)
    check_verdicts(read_scored(selected), thresholds_of(selected.run()))


@pytest.mark.parametrize("keep", ["metadata", "none"])
def test_tightening_needs_no_pixels(tmp_path: Path, keep: str) -> None:
    select(scored_run(tmp_path, keep_rejected=keep, **LOOSE), str(tmp_path / "selected"), SETTINGS)
    scored_run(tmp_path, "generated", keep_rejected=keep, **STRICT)
    assert contents(tmp_path / "selected") == contents(tmp_path / "generated")


def test_a_selection_goes_from_an_object_store_to_another_place_in_it(tmp_path: Path) -> None:
    with local_s3() as uri:
        rundir = scored_run(tmp_path, uri, **LOOSE)
        selected = select(rundir, uri.replace("runs/one", "runs/two"), SETTINGS)
        assert verify_run(selected) == []
        assert selected.storage.root != rundir.storage.root
        local = scored_run(tmp_path, "generated", **STRICT)
        assert {i: m.files for i, m in selected.markers().items()} == {i: m.files for i, m in local.markers().items()}


def test_damage_gets_no_new_hash(tmp_path: Path) -> None:
    rundir = scored_run(tmp_path, **LOOSE)
    path = rundir.storage.local_path(shard_path(1))
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"shards/000001.tar has BLAKE3 .* delete .*done/000001.json"):
        select(rundir, str(tmp_path / "selected"), SETTINGS)
    assert RunDirectory.open(str(tmp_path / "selected")).done() == [0]


def test_versions_and_times_are_those_of_the_pixels(tmp_path: Path) -> None:
    rundir = scored_run(tmp_path, **LOOSE)
    record = json.loads(rundir.storage.read(marker_path(0)))
    rundir.storage.write(marker_path(0), json.dumps(record | {"versions": {"torch": "1.0"}}).encode())
    marker = select(rundir, str(tmp_path / "selected"), SETTINGS).marker(0)
    assert (marker.versions, marker.seconds) == ({"torch": "1.0"}, {"editor": 2.0})


def test_the_tally_counts_each_check_and_those_it_fails_alone() -> None:
    run_scores = {"image": 0.9, "text_source": 0.9, "text_edit": 0.9, "contrast": 0.9, "directional": 0.9}
    config = thresholds_of_default()
    good = edit(run_scores | {"consistency": 0.5})
    low = edit(run_scores | {"consistency": 0.5, "image": 0.1})
    both = edit(run_scores | {"consistency": -0.5, "image": 0.1}, kind="colour")
    changes = tally_changes([good, low, both], config, config.model_copy(update={"consistency": False}))
    assert [(change.name, change.before.n) for change in changes] == [
        ("counterfactuals", 3), ("background", 2), ("colour", 1),
    ]  # fmt: skip
    before, after = changes[0].before, changes[0].after
    assert (before.accepted, before.fails, before.fails_alone) == (1, {"image": 2, "consistency": 1}, {"image": 1})
    assert (after.accepted, after.fails, after.fails_alone) == (1, {"image": 2}, {"image": 2})


def test_only_thresholds_can_be_set(tmp_path: Path) -> None:
    rundir = scored_run(tmp_path, **LOOSE)
    for text in ("min_imag=0.5", "seed=3", "stages.verifier.batch_size=3", "stages.other.min_image=0.5"):
        with pytest.raises(SelectionError, match="select changes what decides alone: min_image"):
            change_thresholds(rundir, [text])
    with pytest.raises(RunFileError, match="less than or equal to 1"):
        change_thresholds(rundir, ["min_image=2"])


def test_floors_of_signals_and_the_rule_are_selected_by(tmp_path: Path) -> None:
    signals = {"grid": {"kind": "spectrum"}}
    rundir = scored_run(tmp_path, **LOOSE, signals=signals, floors={"grid.grid": -2.0})
    settings = ["floors.grid.grid=-0.5", "rule.of=[image, grid.grid]", "rule.at_least=1"]
    after = thresholds_of(change_thresholds(rundir, settings))
    assert after.floors == {"grid.grid": -0.5}
    assert (after.rule.of, after.rule.at_least) == (("image", "grid.grid"), 1)
    with pytest.raises(RunFileError, match=r"floors\.grid\.gird: no signal makes this score; they make: grid.grid"):
        change_thresholds(rundir, ["floors.grid.gird=-0.5"])


def test_a_check_that_was_not_made_cannot_be_selected_by(tmp_path: Path) -> None:
    rundir = scored_run(tmp_path / "run")
    with pytest.raises(SelectionError, match=r"--set min_class: select makes no scores .* new --out"):
        change_thresholds(rundir, ["min_class=-0.1"])


def test_a_run_in_which_another_stage_decides_is_refused(tmp_path: Path) -> None:
    rundir = scored_run(tmp_path, **LOOSE)
    candidates = read_scored(rundir)
    check_verdicts(candidates, thresholds_of(rundir.run()))
    turned = replace(candidates[1], verdict=replace(candidates[1].verdict, accepted=not candidates[1].verdict.accepted))
    with pytest.raises(SelectionError, match=f"1 of 48 verdicts .* {candidates[1].key}"):
        check_verdicts([candidates[0], turned, *candidates[2:]], thresholds_of(rundir.run()))


def test_a_run_without_a_verifier_is_refused(tmp_path: Path) -> None:
    run, plan = tiny_plan(tmp_path)
    rundir = RunDirectory.create(str(tmp_path / "run"), run, plan)
    commit_shard(rundir, 0, plan.keys(0), tiny_results(plan, 0), {})
    with pytest.raises(SelectionError, match="no verifier stage"):
        change_thresholds(rundir, SETTINGS)


def test_where_it_cannot_go_it_says_so_before_writing(tmp_path: Path) -> None:
    rundir = scored_run(tmp_path, **LOOSE)
    before = contents(tmp_path / "run")
    with pytest.raises(SelectionError, match="is the run itself"):
        select(rundir, str(tmp_path / "run"), SETTINGS)
    with pytest.raises(SelectionError, match="the thresholds that the run has"):
        select(rundir, str(tmp_path / "new"), ["min_image=0.2"])
    with pytest.raises(RunDirectoryError, match="not a run directory"):
        select(rundir, str(tmp_path / "images"), SETTINGS)
    select(rundir, str(tmp_path / "other"), ["min_image=0.9"])
    with pytest.raises(RunDirectoryError, match="belongs to another plan"):
        select(rundir, str(tmp_path / "other"), SETTINGS)
    rundir.storage.write("run.yaml", rundir.storage.read("run.yaml").replace(b"seed: 0", b"seed: 1", 1))
    with pytest.raises(SelectionError, match="is not the one that its plan"):
        select(rundir, str(tmp_path / "new"), SETTINGS)
    rundir.storage.write("run.yaml", before["run.yaml"])
    assert contents(tmp_path / "run") == before
    assert not (tmp_path / "new").exists()


def thresholds_of_default() -> object:
    from engine.runfile.fields import ModelConfig
    from engine.runfile.verifier import VerifierConfig

    return VerifierConfig(model=ModelConfig(name="x"))


def edit(scores: dict[str, float], kind: str = "background") -> Candidate:
    from engine.verdicts.rule import verdict_of

    verdict = verdict_of(scores, thresholds_of_default(), text_changes=True)
    return Candidate(
        key="a_cf00", source_key="a", split_key="a", role="counterfactual", edit_kind=kind, scores=scores,
        text_changes=True, verdict=verdict, has_pixels=True,
    )  # fmt: skip
