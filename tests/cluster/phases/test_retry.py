"""Retry: what was quarantined is made again, and the shard is as if nothing had been wrong."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tint_runs import NUM_SHARDS, contents, make_in_process, tint_run, tiny_ray, write_images

import engine.run.retry
from cluster.cli.main import main
from cluster.phases.pipeline import all_phases
from cluster.phases.retry import retry_run
from engine.audit.files import verify_run
from engine.errors import SelectionError, ShardError
from engine.run.directory import RunDirectory, marker_path
from engine.run.retry import Retry, commit_retried
from engine.runfile.load import dump_run_file
from engine.runfile.run import RunFile


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with tiny_ray():
        yield


def mend(images: Path) -> None:
    """Put the whole pictures where the damaged ones are."""
    write_images(images, bad=0)


def changed(run: RunFile, keep_rejected: str) -> RunFile:
    return RunFile.model_validate(
        run.model_dump() | {"shards": {"sources_per_shard": 4, "keep_rejected": keep_rejected}}
    )


@pytest.mark.parametrize("keep_rejected", ["all", "metadata", "none"])
def test_the_mended_run_has_the_bytes_of_one_without_trouble(tmp_path: Path, keep_rejected: str) -> None:
    run = changed(tint_run(write_images(tmp_path / "images", bad=3), grouped=True), keep_rejected)
    rundir = make_in_process(run, tmp_path / "run", range(NUM_SHARDS))
    mend(tmp_path / "images")
    before, after = retry_run(run, rundir, ["unreadable_image"])
    assert (before.reasons, after.reasons) == ({"unreadable_image": 3}, {"unreadable_image": 0})
    make_in_process(run, tmp_path / "calm", range(NUM_SHARDS))
    assert contents(tmp_path / "run") == contents(tmp_path / "calm")
    calm = RunDirectory.open(str(tmp_path / "calm")).markers()
    assert {index: (marker.counts, marker.keys, marker.files) for index, marker in rundir.markers().items()} == {
        index: (marker.counts, marker.keys, marker.files) for index, marker in calm.items()
    }
    assert verify_run(rundir) == []


def test_the_command_says_what_became_of_each_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tint_run(write_images(tmp_path / "images", bad=1), grouped=True)
    rundir = make_in_process(run, tmp_path / "run", range(NUM_SHARDS))
    files = {index: marker.files for index, marker in rundir.markers().items()}
    mend(tmp_path / "images")
    assert main(["retry", rundir.storage.root]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "too_blue: 15 before, 16 now",
        "unreadable_image: 1 before, 0 now",
    ]
    # Only the shard of the mended picture is another one: the rest fails again, and is left as it is.
    assert sum(marker.files != files[index] for index, marker in rundir.markers().items()) == 1
    assert main(["retry", rundir.storage.root, "--reason", "unreadable_image"]) == 2
    assert "the reasons are too_blue (16)" in capsys.readouterr().err


def test_without_trouble_there_is_nothing_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rundir = make_in_process(tint_run(write_images(tmp_path / "images", bad=0)), tmp_path / "run", [])
    assert main(["retry", rundir.storage.root]) == 0
    assert capsys.readouterr().out == "nothing is quarantined\n"


@pytest.fixture
def made(tmp_path: Path) -> tuple[RunFile, RunDirectory]:
    run = tint_run(write_images(tmp_path / "images", bad=1), grouped=True)
    return run, make_in_process(run, tmp_path / "run", range(NUM_SHARDS))


def bad_shard(rundir: RunDirectory) -> int:
    return next(iter(Retry.of(rundir, ["unreadable_image"]).sources))


def test_only_sources_with_that_reason_are_made_again(made: tuple[RunFile, RunDirectory]) -> None:
    _, rundir = made
    unreadable = Retry.of(rundir, ["unreadable_image"])
    assert unreadable.reasons == {"unreadable_image": 1}
    assert sum(map(len, unreadable.sources.values())) == 1
    every = Retry.of(rundir)
    assert every.reasons == {"too_blue": 15, "unreadable_image": 1}
    assert sum(map(len, every.sources.values())) == 16


def test_an_unknown_reason_is_told_with_the_known_ones(made: tuple[RunFile, RunDirectory]) -> None:
    with pytest.raises(SelectionError, match=r"--reason dull: .* too_blue \(15\), unreadable_image \(1\)"):
        Retry.of(made[1], ["dull"])


def test_other_versions_may_not_mend_a_shard(
    made: tuple[RunFile, RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, rundir = made
    index = bad_shard(rundir)
    (key,) = Retry.of(rundir, ["unreadable_image"]).sources[index]
    sample = rundir.read_shard(index)[0]
    again = [replace(sample, key=key, source_key=key)]
    monkeypatch.setattr(engine.run.retry, "versions", lambda: {"pillow": "1.0"})
    with pytest.raises(ShardError, match=rf"shard {index} was made with pillow .*, here is 1\.0"):
        commit_retried(rundir, index, [key], again, {})
    assert verify_run(rundir) == []


def test_what_is_cut_off_in_between_is_a_shard_to_be_made(
    made: tuple[RunFile, RunDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, rundir = made
    index = bad_shard(rundir)
    mend(tmp_path / "images")

    def cut_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine.run.retry, "commit_outcome", cut_off)
    (key,) = Retry.of(rundir, ["unreadable_image"]).sources[index]
    sample = rundir.read_shard(index)[0]
    with pytest.raises(KeyboardInterrupt):
        commit_retried(rundir, index, [key], [replace(sample, key=key, source_key=key)], {})
    assert rundir.pending() == [index]
    monkeypatch.undo()
    make_in_process(run, tmp_path / "run", [index])
    make_in_process(run, tmp_path / "calm", range(NUM_SHARDS))
    assert contents(tmp_path / "run") == contents(tmp_path / "calm")


def test_what_was_probed_before_is_asked_again(made: tuple[RunFile, RunDirectory], tmp_path: Path) -> None:
    run, rundir = made
    index = bad_shard(rundir)
    for number in range(NUM_SHARDS):
        rundir.storage.write(f"probe/digest/{number:06d}.parquet", b"predictions")
    before = {phase.name: phase.digest() for phase in all_phases(run, rundir, rundir.plan())}
    mend(tmp_path / "images")
    retry_run(run, rundir, ["unreadable_image"])
    assert rundir.storage.list("probe/digest") == [f"{n:06d}.parquet" for n in range(NUM_SHARDS) if n != index]
    after = {phase.name: phase.digest() for phase in all_phases(run, rundir, rundir.plan())}
    assert {name for name in before if before[name] != after[name]} == {"probe", "reinforce", "report"}
    assert dump_run_file(rundir.run()) == dump_run_file(run)
    assert rundir.exists(marker_path(index))
