"""A sample that makes a stage raise, crash or run for ever is found, given up, and costs no other sample."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tint_runs import NUM_SHARDS, generate, make_in_process, tint_run, write_images

from cluster.dataflow.isolation import ShardBisector
from cluster.dataflow.shard_row import ShardRow
from engine.audit.files import verify_run
from engine.errors import ModelError
from engine.run.attempts import FOLDER, STRIKES, Attempts, Note
from engine.run.directory import RunDirectory
from engine.runfile.run import RunFile
from engine.sample import Rejection, Sample
from engine.storage.storage import Storage


def poisoned(images: Path, options: Mapping[str, str], sample_s: float = 60.0) -> RunFile:
    """Tint, then poison samples by their keys: a group is a source, its placebo and three edits."""
    placement = {"replicas": [1, 1], "num_cpus": 0.5}
    stages = {
        "tint": {"kind": "plugin", "target": "tiny_stages:Tint", "placement": placement},
        "poison": {"kind": "plugin", "target": "tiny_stages:Poison", "options": dict(options), "placement": placement},
    }
    run = tint_run(write_images(images, bad=0), stages=stages)
    return RunFile.model_validate(run.model_dump() | {"limits": {"sample_s": sample_s}})


def every_sample(rundir: RunDirectory) -> dict[str, Sample]:
    return {sample.key: sample for index in rundir.done() for sample in rundir.read_shard(index)}


def quarantined(rundir: RunDirectory) -> list[Rejection]:
    return [each for index in rundir.done() for each in rundir.read_quarantine(index)]


@pytest.fixture
def calm(tmp_path: Path) -> dict[str, Sample]:
    run = poisoned(tmp_path / "images", {})
    return every_sample(make_in_process(run, tmp_path / "calm", range(NUM_SHARDS)))


def victim(calm: dict[str, Sample], suffix: str) -> str:
    return sorted(key for key in calm if key.endswith(suffix))[5]


@pytest.mark.parametrize("suffix", ["_cf01", "_placebo"])
def test_a_sample_that_raises_is_quarantined_with_stage_reason_and_detail(
    tmp_path: Path, calm: dict[str, Sample], suffix: str
) -> None:
    key = victim(calm, suffix)
    rundir = make_in_process(poisoned(tmp_path / "images", {key: "raise"}), tmp_path / "run", range(NUM_SHARDS))
    source_key = calm[key].source_key
    detail = "ValueError: no such colour"
    assert quarantined(rundir) == [
        Rejection(key=key, source_key=source_key, stage="poison", reason="stage_error", detail=detail)
    ]
    assert every_sample(rundir) == {name: sample for name, sample in calm.items() if name != key}


def test_a_source_that_raises_takes_its_edits_along(tmp_path: Path, calm: dict[str, Sample]) -> None:
    key = min(calm)
    assert calm[key].role == "source"
    rundir = make_in_process(poisoned(tmp_path / "images", {key: "raise"}), tmp_path / "run", range(NUM_SHARDS))
    assert {each.key: each.reason for each in quarantined(rundir)} == {
        name: "stage_error" if name == key else "no_source" for name in calm if calm[name].source_key == key
    }
    assert every_sample(rundir) == {name: sample for name, sample in calm.items() if sample.source_key != key}


@pytest.mark.slow
def test_samples_that_end_their_worker_are_found_and_cost_no_other(
    tmp_path: Path, calm: dict[str, Sample], generation_ray: None
) -> None:
    plan = RunDirectory.open(str(tmp_path / "calm")).plan()
    # In shards of their own: what is said of one does not come of the other.
    deadly, endless = (f"{plan.keys(index)[1]}_cf02" for index in (1, 2))
    poison = {deadly: "die", endless: "loop"}
    rundir = generate(poisoned(tmp_path / "images", poison, sample_s=0.4), tmp_path / "run")
    found = {each.key: each for each in quarantined(rundir)}
    assert {key: (each.stage, each.reason) for key, each in found.items()} == {
        deadly: ("poison", "worker_died"), endless: ("poison", "timed_out")
    }  # fmt: skip
    assert "out of memory, or a crash" in found[deadly].detail
    assert "longer than 0.8 s, in " in found[endless].detail
    assert every_sample(rundir) == {name: sample for name, sample in calm.items() if name not in poison}
    assert verify_run(rundir) == []
    assert rundir.storage.list(FOLDER) == []


@pytest.fixture
def attempts(tmp_path: Path) -> Attempts:
    return Attempts(storage=Storage(str(tmp_path)), where="poison")


def row(calm: dict[str, Sample], num_groups: int) -> ShardRow:
    sources = sorted({sample.source_key for sample in calm.values()})[:num_groups]
    members = [sample for key in sources for sample in calm.values() if sample.source_key == key]
    return ShardRow(shard=0, planned=sources, samples=members)


def test_what_every_part_raises_is_of_the_stage_and_is_raised(calm: dict[str, Sample], attempts: Attempts) -> None:
    def broken(row: ShardRow) -> ShardRow:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        ShardBisector(row=row(calm, 3), apply=broken, where="poison", sample_s=1, attempts=attempts).run()


def test_what_is_wrong_with_the_run_is_raised_at_once(calm: dict[str, Sample], attempts: Attempts) -> None:
    calls = []

    def gone(row: ShardRow) -> ShardRow:
        calls.append(row)
        raise ModelError("model 'x' is no folder")

    with pytest.raises(ModelError):
        ShardBisector(row=row(calm, 3), apply=gone, where="poison", sample_s=1, attempts=attempts).run()
    assert len(calls) == 1


def test_parts_give_what_the_whole_gives(calm: dict[str, Sample], attempts: Attempts) -> None:
    whole = row(calm, 3)
    earlier = Rejection(key="k", source_key="k", stage="source", reason="empty_file", detail="0 bytes")
    whole = replace(whole, rejections=[earlier])
    assert (
        ShardBisector(row=whole, apply=lambda part: part, where="poison", sample_s=1, attempts=attempts).run() == whole
    )


def test_what_is_suspect_comes_second_early_and_to_a_warm_worker(calm: dict[str, Sample], attempts: Attempts) -> None:
    whole, seen = row(calm, 4), list[str]()

    def watch(part: ShardRow) -> ShardRow:
        seen.append(part.samples[-1].key)
        return part

    suspect = [sample.key for sample in whole.samples if sample.source_key == whole.planned[2]]
    note = Note(begun=3, strikes={f"sample {suspect[3]}": 1})
    found = ShardBisector(row=whole, apply=watch, where="poison", sample_s=1, attempts=attempts, note=note).run()
    keys = [sample.source_key for sample in found.samples]
    assert list(dict.fromkeys(keys)) == [whole.planned[place] for place in (0, 2, 1, 3)]
    assert sorted(found.samples, key=lambda sample: sample.key) == sorted(whole.samples, key=lambda sample: sample.key)


def test_some_deaths_with_a_sample_may_be_of_machines_many_are_not(tmp_path: Path) -> None:
    attempts = Attempts(storage=Storage(str(tmp_path)), where="editor")
    for strike in range(1, STRIKES + 1):
        note = attempts.begin(7)
        assert note.strikes.get("sample a", 0) == strike - 1
        attempts.narrow(7, note, "sample a")
    note = attempts.begin(7)
    assert (note.begun, note.strikes) == (STRIKES + 1, {"sample a": STRIKES})
    attempts.end(7)
    note = attempts.begin(7)
    assert (note.begun, note.strikes) == (1, {})
