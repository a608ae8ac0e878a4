"""The contact sheet: rows of source, placebo and edits, accepted or not."""

import io
from pathlib import Path

import pytest
from PIL import Image
from tiny_runs import tiny_plan, tiny_results

from engine.errors import RunDirectoryError, ShardError
from engine.report.contact_sheet import sheet_of_run, sheet_of_shard
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory


def make_run(folder: Path, *, shards: int, keep_rejected: str = "all") -> RunDirectory:
    run, plan = tiny_plan(folder, keep_rejected=keep_rejected)
    rundir = RunDirectory.create(str(folder / "run"), run, plan)
    for index in range(shards):
        commit_shard(rundir, index, plan.keys(index), tiny_results(plan, index), {})
    return rundir


def size_of(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return image.size


def test_a_sheet_has_one_row_a_source_and_one_column_a_picture(tmp_path: Path) -> None:
    rundir = make_run(tmp_path, shards=2)
    width, height = size_of(sheet_of_run(rundir, 2))
    wider, higher = size_of(sheet_of_run(rundir, 4))
    assert wider == width
    assert height < higher < 2 * height


def test_rejected_edits_are_shown_where_their_pixels_were_kept(tmp_path: Path) -> None:
    whole = size_of(sheet_of_run(make_run(tmp_path / "all", shards=1), 1))
    without = size_of(sheet_of_run(make_run(tmp_path / "metadata", shards=1, keep_rejected="metadata"), 1))
    assert whole[0] > without[0]


def test_one_shard_can_be_shown_alone(tmp_path: Path) -> None:
    make_run(tmp_path, shards=1)
    assert size_of(sheet_of_shard(tmp_path / "run/shards/000000.tar", 3))[1] > 3 * 128


def test_a_run_without_shards_has_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="no finished shard yet"):
        sheet_of_run(make_run(tmp_path, shards=0), 3)


def test_a_file_that_is_no_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"not a tar" * 99)
    with pytest.raises(ShardError, match=r"x\.tar is damaged"):
        sheet_of_shard(tmp_path / "x.tar", 3)
    with pytest.raises(RunDirectoryError, match=r"cannot read .*y\.tar"):
        sheet_of_shard(tmp_path / "y.tar", 3)
