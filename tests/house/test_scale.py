"""What must not grow with a run: memory a source, what a resumed run reads, requests a commit."""

import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_s3 import Faults, faulty_s3
from tint_runs import tint_run, write_images
from tiny_runs import tiny_plan, tiny_results

from cluster.monitor.progress import MarkerFollower
from cluster.phases.generate import PlannedShard
from engine.plan.plan import Plan, make_plan
from engine.run.attempts import Attempts
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory, marker_path
from engine.run.lease import held
from engine.runfile.run import RunFile

NUM_ROWS = 20_000
# Key, locator, caption, their offsets, label, split and shard; a SourceItem alone is 600 bytes and more.
BYTES_A_ROW = 250


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    """Return a run of many sources in few shards."""
    folder = tmp_path_factory.mktemp("table")
    (folder / "0000000.jpg").touch()
    rows = "".join(f"{number:07d}.jpg,class {number % 10},a photo of a thing\n" for number in range(NUM_ROWS))
    (folder / "labels.csv").write_text("path,label,caption\n" + rows)
    return RunFile.model_validate(
        {
            "name": "large",
            "data": {"train": {"kind": "table", "path": str(folder / "labels.csv")}, "near_duplicates": "off"},
            "shards": {"sources_per_shard": 100},
            "stages": {"captioner": {"kind": "captioner", "model": {"name": "zoo/captioner"}}},
            "probe": {"callable": "a:b"},
        }
    )


@pytest.fixture(scope="module")
def plan(run: RunFile) -> Plan:
    return make_plan(run)


def test_a_plan_holds_few_bytes_of_each_source(plan: Plan) -> None:
    # Arrow keeps the columns; of most sources key and split key are the same bytes, not two copies.
    assert plan.table.get_total_buffer_size() < BYTES_A_ROW * NUM_ROWS
    key, split_key = (plan.table.column(name).chunk(0).buffers()[2] for name in ("key", "split_key"))
    assert key.address == split_key.address


def test_python_holds_no_object_of_each_source_after_planning(run: RunFile) -> None:
    make_plan(run)
    tracemalloc.start()
    try:
        plan = make_plan(run)
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert plan.num_edited > NUM_ROWS / 2
    assert held_bytes < 30 * NUM_ROWS


def test_the_driver_holds_no_item_of_the_shards_that_wait(run: RunFile, plan: Plan) -> None:
    plan.shard(0)
    tracemalloc.start()
    try:
        readers = [PlannedShard(run.data.train, plan, index) for index in range(plan.num_shards)]
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held_bytes < 1000 * len(readers)


def test_a_shard_travels_as_its_own_items_alone(tmp_path: Path, run: RunFile, plan: Plan) -> None:
    assert len(pickle.dumps(PlannedShard(run.data.train, plan, 3))) < 100 * 100
    small = tint_run(write_images(tmp_path / "images", bad=0))
    few = make_plan(small)
    reader = PlannedShard(small.data.train, few, 1)
    sent, here = pickle.loads(pickle.dumps(reader))(), reader()
    assert sent.shard == 1
    assert sent.planned == here.planned == few.keys(1)
    assert sent.samples == here.samples


def test_a_resumed_run_reads_no_marker_before_its_first_shard_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, plan = tiny_plan(tmp_path)
    rundir = RunDirectory.create(str(tmp_path / "run"), small, plan)
    commit_shard(rundir, 0, plan.keys(0), tiny_results(plan, 0), {})

    def refuse(path: str) -> bytes:
        raise AssertionError(f"{path} was read")

    again = RunDirectory.create(str(tmp_path / "run"), small, plan)
    monkeypatch.setattr(again.storage, "read", refuse)
    again.tidy()
    assert again.pending() == [1]
    MarkerFollower(again, plan.num_shards, plan.num_edited, again.done())


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Faults]]:
    with faulty_s3() as found:
        yield found


def test_a_shard_costs_the_same_few_requests_however_many_are_done(server: tuple[str, Faults], tmp_path: Path) -> None:
    root, faults = server
    small, plan = tiny_plan(tmp_path)
    rundir = RunDirectory.create(root, small, plan)
    attempts = Attempts(storage=rundir.storage, where="editor")

    def requests_of(index: int) -> dict[str, int]:
        faults.requests.clear()
        attempts.begin(index)
        commit_shard(rundir, index, plan.keys(index), tiny_results(plan, index), {})
        attempts.end(index)
        return dict(faults.requests)

    with held(rundir.storage, ["generate"]) as leases:
        rundir.lease = leases["generate"]
        first = requests_of(0)
        for number in range(1000, 1008):
            rundir.storage.create(marker_path(number), b"{}")
        assert requests_of(1) == first
    # Four files and the marker, each after a look at the lease; is it done already; the note of the attempt.
    assert first == {"HEAD": 1 + 5, "PUT": 5 + 1, "GET": 1, "POST": 1}


def test_what_is_missing_takes_one_request_a_thousand_markers(server: tuple[str, Faults], tmp_path: Path) -> None:
    root, faults = server
    small, plan = tiny_plan(tmp_path)
    rundir = RunDirectory.create(root.replace("one", "two"), small, plan)
    faults.requests.clear()
    assert rundir.pending() == [0, 1]
    assert dict(faults.requests) == {"GET": 1}
