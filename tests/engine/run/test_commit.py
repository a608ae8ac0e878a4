"""The commit of a shard: whole or refused, the same bytes each time, the marker last."""

import io
import os
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from blake3 import blake3
from PIL import Image
from tiny_runs import picture, tiny_group, tiny_plan, tiny_results

from engine.errors import RunError, ShardError
from engine.plan.plan import Plan
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory, marker_path, quarantine_path, rejected_path, rows_path, shard_path
from engine.sample import Rejection, Sample
from engine.shards.marker import Marker, add_counts
from engine.storage.storage import Storage

SECONDS = {"editor": 1.25, "verifier": 0.5}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return tiny_plan(tmp_path)[1]


@pytest.fixture
def rundir(tmp_path: Path, plan: Plan) -> RunDirectory:
    return make(tmp_path)


def make(folder: Path, name: str = "run", keep_rejected: str = "all") -> RunDirectory:
    run, plan = tiny_plan(folder, keep_rejected=keep_rejected)
    return RunDirectory.create(str(folder / name), run, plan)


def commit(rundir: RunDirectory, results: list[Sample | Rejection] | None = None) -> Marker:
    plan = rundir.plan()
    return commit_shard(rundir, 0, plan.keys(0), tiny_results(plan, 0) if results is None else results, SECONDS)


def test_the_marker_counts_every_sample_once(rundir: RunDirectory) -> None:
    marker = commit(rundir)
    counts = marker.counts
    assert (counts.sources, counts.placebos, counts.candidates, counts.accepted) == (3, 3, 9, 3)
    assert counts.rejected == {"min_image": 3}
    assert counts.quarantined == {"not_json": 3}
    assert counts.candidates == counts.accepted + sum(counts.rejected.values()) + counts.quarantined_candidates
    assert marker.seconds == SECONDS
    assert marker == rundir.marker(0)


def test_the_marker_names_every_file_with_its_hash(rundir: RunDirectory) -> None:
    marker = commit(rundir)
    assert set(marker.files) == {shard_path(0), rows_path(0), rejected_path(0), quarantine_path(0)}
    for path, record in marker.files.items():
        data = rundir.storage.read(path)
        assert (blake3(data).hexdigest(), len(data)) == (record.blake3, record.bytes)
    assert [marker.files[path].samples for path in (shard_path(0), rows_path(0), rejected_path(0))] == [9, 9, 3]


def test_groups_lie_together_whatever_order_they_came_in(rundir: RunDirectory, plan: Plan) -> None:
    marker = commit(rundir, tiny_results(plan, 0)[::-1])
    keys = sorted(plan.keys(0))
    assert [sample.key for sample in rundir.read_shard(0)] == [
        f"{key}{suffix}" for key in keys for suffix in ("", "_placebo", "_cf00")
    ]
    assert [sample.key for sample in rundir.read_rejected(0)] == [f"{key}_cf01" for key in keys]
    assert [rejection.detail for rejection in rundir.read_quarantine(0)] == ['"❄"\n'] * 3
    assert marker.keys == (keys[0], keys[-1])


def test_two_runs_write_the_same_bytes(tmp_path: Path, plan: Plan) -> None:
    one = commit(make(tmp_path, "one"))
    two = commit_shard(make(tmp_path, "two"), 0, plan.keys(0), tiny_results(plan, 0)[::-1], {"editor": 99.0})
    assert one.files == two.files
    assert replace(one, seconds={}) == replace(two, seconds={})


def test_the_rows_hold_scores_and_verdicts_without_pixels(rundir: RunDirectory) -> None:
    commit(rundir)
    table = pq.read_table(io.BytesIO(rundir.storage.read(rows_path(0))))
    rows = table.to_pylist()
    assert [row["role"] for row in rows[:3]] == ["placebo", "counterfactual", "counterfactual"]
    assert rows[0]["score_directional"] is None
    assert rows[2] == rows[2] | {
        "accepted": False,
        "reasons": ["min_image", "blank"],
        "edit_after": "snow",
        "score_image": 0.8,
        "attribute_background": "grass",
        "provenance": {"editor": {"seed": 5}},
        "shard": 0,
    }
    assert not {"image", "seconds"} & set(table.column_names)


@pytest.mark.parametrize(("keep", "images"), [("all", True), ("metadata", False)])
def test_rejected_samples_are_kept_as_asked(tmp_path: Path, keep: str, images: bool) -> None:
    rundir = make(tmp_path, keep_rejected=keep)
    commit(rundir)
    rejected = rundir.read_rejected(0)
    assert [bool(sample.image) for sample in rejected] == [images] * 3
    assert rejected[0].verdict is not None
    assert rejected[0].verdict.reasons == ("min_image", "blank")


def test_rejected_samples_are_dropped_as_asked_and_their_rows_stay(tmp_path: Path) -> None:
    rundir = make(tmp_path, keep_rejected="none")
    marker = commit(rundir)
    assert rejected_path(0) not in marker.files
    assert not rundir.exists(rejected_path(0))
    assert rundir.read_rejected(0) == []
    assert rundir.candidates().num_rows == 9
    assert marker.counts.rejected == {"min_image": 3}


def test_a_missing_source_is_refused_and_nothing_is_written(rundir: RunDirectory, plan: Plan) -> None:
    lost = plan.keys(0)[0]
    results = [result for result in tiny_results(plan, 0) if result.source_key != lost]
    with pytest.raises(
        ShardError, match=rf"shard 0 is not whole: 1 planned sources are missing \({lost}\); 3 .* planned"
    ):
        commit(rundir, results)
    assert rundir.pending() == [0, 1]
    assert not rundir.exists(shard_path(0))


def test_a_group_whose_source_alone_is_missing_is_refused(rundir: RunDirectory, plan: Plan) -> None:
    with pytest.raises(ShardError, match="1 planned sources are missing"):
        commit(rundir, tiny_results(plan, 0)[1:])


def test_a_doubled_source_is_refused(rundir: RunDirectory, plan: Plan) -> None:
    results = tiny_results(plan, 0)
    with pytest.raises(ShardError, match="1 keys came more than once"):
        commit(rundir, [*results, results[0]])


def test_a_sample_that_is_also_a_rejection_is_refused(rundir: RunDirectory, plan: Plan) -> None:
    results = tiny_results(plan, 0)
    also = Rejection(key=results[2].key, source_key=results[2].source_key, stage="editor", reason="x", detail="")
    with pytest.raises(ShardError, match="1 keys came more than once"):
        commit(rundir, [*results, also])


def test_a_source_of_another_shard_is_refused(rundir: RunDirectory, plan: Plan) -> None:
    with pytest.raises(ShardError, match="5 keys are of no source of this shard"):
        commit(rundir, [*tiny_results(plan, 0), *tiny_group(plan.keys(1)[0])])


def test_a_source_that_could_not_be_read_is_quarantined(rundir: RunDirectory, plan: Plan) -> None:
    lost = plan.keys(0)[0]
    results = [result for result in tiny_results(plan, 0) if result.source_key != lost]
    results.append(Rejection(key=lost, source_key=lost, stage="source", reason="unreadable_image", detail="cut off"))
    counts = commit(rundir, results).counts
    assert (counts.sources, counts.candidates, counts.quarantined_candidates) == (2, 6, 2)
    assert counts.quarantined == {"not_json": 2, "unreadable_image": 1}


def test_edits_of_a_source_that_was_given_up_are_quarantined(rundir: RunDirectory, plan: Plan) -> None:
    results = tiny_results(plan, 0)
    source = results[0]
    results[0] = Rejection(key=source.key, source_key=source.key, stage="verifier", reason="nan", detail="")
    counts = commit(rundir, results).counts
    assert (counts.sources, counts.placebos, counts.accepted, counts.candidates) == (2, 2, 2, 9)
    assert counts.quarantined == {"nan": 1, "no_source": 3, "not_json": 3}


def test_a_rejected_placebo_leaves_the_shard(rundir: RunDirectory, plan: Plan) -> None:
    results = tiny_results(plan, 0)
    placebo, failed = results[1], results[3]
    assert isinstance(placebo, Sample)
    assert isinstance(failed, Sample)
    results[1] = replace(placebo, verdict=failed.verdict)
    counts = commit(rundir, results).counts
    assert (counts.placebos, counts.rejected_placebos, counts.candidates, counts.rejected) == (
        2,
        1,
        9,
        {"min_image": 3},
    )
    assert placebo.key in [sample.key for sample in rundir.read_rejected(0)]


def test_without_a_verifier_every_edit_is_accepted(rundir: RunDirectory, plan: Plan) -> None:
    results = [
        replace(result, verdict=None) if isinstance(result, Sample) else result for result in tiny_results(plan, 0)
    ]
    assert commit(rundir, results).counts.accepted == 6
    assert rundir.candidates().column("accepted").null_count == 9


def test_an_edit_without_an_image_is_quarantined(rundir: RunDirectory, plan: Plan) -> None:
    results = tiny_results(plan, 0)
    results[2] = replace(results[2], image=b"")
    counts = commit(rundir, results).counts
    assert counts.quarantined == {"no_image": 1, "not_json": 3}
    assert (counts.candidates, counts.accepted) == (9, 2)


def test_a_run_without_loss_has_png_alone(rundir: RunDirectory, plan: Plan) -> None:
    rundir = RunDirectory(rundir.storage, replace(rundir.info, images="png"))
    results = tiny_results(plan, 0)
    results[2] = replace(results[2], image=picture((1, 2, 3), "PNG"))
    commit(rundir, results)
    stored = {sample.key: sample.image for sample in rundir.read_shard(0)}
    assert stored[results[2].key] == results[2].image
    with Image.open(io.BytesIO(stored[results[0].key])) as image, Image.open(io.BytesIO(results[0].image)) as source:
        assert image.format == "PNG"
        assert image.tobytes() == source.convert("RGB").tobytes()


def test_images_of_other_formats_become_jpeg(rundir: RunDirectory, plan: Plan) -> None:
    results = tiny_results(plan, 0)
    results[2] = replace(results[2], image=picture((1, 2, 3), "PNG"))
    results[7] = replace(results[7], image=b"no image at all")
    counts = commit(rundir, results).counts
    assert counts.quarantined == {"not_json": 3, "unreadable_image": 1}
    for sample in rundir.read_shard(0):
        with Image.open(io.BytesIO(sample.image)) as image:
            assert image.format == "JPEG"


def test_a_shard_of_nothing_but_unreadable_sources_is_committed(rundir: RunDirectory, plan: Plan) -> None:
    results = [
        Rejection(key=key, source_key=key, stage="source", reason="empty_file", detail="") for key in plan.keys(0)
    ]
    marker = commit(rundir, results)
    assert marker.keys is None
    assert rundir.read_shard(0) == []
    assert rundir.pending() == [1]


def test_a_shard_that_is_done_is_left_as_it_is(rundir: RunDirectory, plan: Plan) -> None:
    first = commit(rundir)
    results = tiny_results(plan, 0)
    results[2] = replace(results[2], image=picture((7, 7, 7)))
    assert commit(rundir, results) == first
    assert rundir.read_shard(0)[2].image == tiny_results(plan, 0)[2].image


def test_two_writers_of_the_same_bytes_agree_and_of_others_do_not(
    rundir: RunDirectory, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = commit(rundir)
    # As if the other had finished after this one had looked.
    monkeypatch.setattr(Storage, "exists", lambda self, path: False)
    assert commit(rundir) == first
    results = tiny_results(plan, 0)
    results[2] = replace(results[2], image=picture((7, 7, 7)))
    with pytest.raises(ShardError, match="committed by another writer with other bytes"):
        commit(rundir, results)


def test_the_marker_is_written_last(rundir: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    replace_file, link = os.replace, os.link
    monkeypatch.setattr(os, "replace", lambda a, b: (names.append(Path(b).name), replace_file(a, b)))
    monkeypatch.setattr(os, "link", lambda a, b: (names.append(Path(b).name), link(a, b)))
    commit(rundir)
    assert names == ["000000.tar", "000000.jsonl", "000000.parquet", "000000.tar", "000000.json"]


@pytest.mark.parametrize("steps", range(4))
def test_a_commit_that_dies_at_any_step_is_done_again_to_the_same_bytes(
    tmp_path: Path, rundir: RunDirectory, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, calls = os.fsync, [0]

    def dying(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] > 2 * steps + 2:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", dying)
        with pytest.raises(RunError, match="No space left on device"):
            commit(rundir)
    assert rundir.pending() == [0, 1]
    assert commit(rundir).files == commit(make(tmp_path, "clean")).files


def test_files_of_a_try_that_was_cut_off_do_not_stay(rundir: RunDirectory, plan: Plan) -> None:
    rundir.storage.write(rejected_path(0), b"torn")
    results = [result for result in tiny_results(plan, 0) if not result.key.endswith("_cf01")]
    commit(rundir, results)
    assert not rundir.exists(rejected_path(0))


def test_counts_of_markers_add_up(rundir: RunDirectory, plan: Plan) -> None:
    commit(rundir)
    commit_shard(rundir, 1, plan.keys(1), tiny_results(plan, 1), SECONDS)
    counts = add_counts(rundir.markers())
    assert (counts.sources, counts.candidates, counts.accepted) == (6, 18, 6)
    assert (counts.rejected, counts.quarantined) == ({"min_image": 6}, {"not_json": 6})


def test_the_marker_path_sorts_by_shard() -> None:
    assert marker_path(12) == "done/000012.json"
