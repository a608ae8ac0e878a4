"""What it takes to go on in a run of many shards: until it is known which are missing, and what a store is asked."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from local_s3 import faulty_s3
from tint_runs import make_in_process
from tiny_runs import tiny_group

from cluster.monitor.progress import MarkerFollower, describe, snapshot
from engine.figures.figures import Figure
from engine.plan.plan import Plan, make_plan
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory, marker_path, rows_path
from engine.run.lease import held
from engine.runfile.load import load_run_file
from engine.runfile.run import RunFile
from engine.shards.marker import Marker
from engine.storage.storage import Storage
from tests.benchmarks.fresh import measure
from tests.benchmarks.planning import MILLION, run_of, write_table

DEMO = Path(__file__).parents[2] / "configs" / "wardrobe.yaml"
NUM_DEMO = 16
DEMO_OVERRIDES = ("data.num_validation_sources=0", f"shards.sources_per_shard={NUM_DEMO}")
# One in so many is still to be made.
PENDING_EVERY = 1000
NUM_WRITERS = 8


def resuming_figures(folder: Path, num_markers: int) -> Iterator[Figure]:
    """Yield seconds and memory of the scan of a local run directory of so many markers."""
    run, plan = _planned(folder, num_markers)
    rundir = RunDirectory.create(str(folder / "run"), run, plan)
    fill(rundir, plan)
    taken = measure("tests.benchmarks.resuming:scan", str(folder / "run"))
    assert taken.result == len(rundir.pending()) > 0
    yield Figure(name="resume.seconds", value=taken.seconds, target=5, better="lower", n=num_markers, unit="s")
    yield Figure(name="resume.memory", value=taken.peak_mib, target=1024, better="lower", n=num_markers, unit="MiB")
    read = measure("tests.benchmarks.resuming:read_all", str(folder / "run"))
    yield Figure(name="resume.all_markers.seconds", value=read.seconds, n=num_markers, unit="s")
    yield Figure(name="resume.all_markers.memory", value=read.peak_mib, n=num_markers, unit="MiB")
    kept = measure("tests.benchmarks.resuming:keep_all", str(folder / "run"))
    yield Figure(name="resume.markers_kept.memory", value=kept.peak_mib, n=num_markers, unit="MiB")


def store_figures(folder: Path, num_markers: int) -> Iterator[Figure]:
    """Yield what a scan of an S3 server's markers takes, and the requests of a commit among so many."""
    run, plan = _planned(folder, num_markers)
    with faulty_s3() as (root, server):
        rundir = RunDirectory.create(root, run, plan)
        with held(rundir.storage, ["generate"]) as leases:
            rundir.lease = leases["generate"]
            server.requests.clear()
            fill(rundir, plan)
            before = server.requests.total()
            commit(rundir, plan, PENDING_EVERY)
            yield Figure(name="store.commit_requests", value=server.requests.total() - before, n=num_markers, unit="")
        server.requests.clear()
        start = perf_counter()
        pending = RunDirectory.open(root).pending()
        yield Figure(name="store.resume.seconds", value=perf_counter() - start, n=num_markers, unit="s")
        yield Figure(name="store.resume.requests", value=server.requests.total(), n=num_markers, unit="")
        assert len(pending) == num_markers // PENDING_EVERY - 1


def row_figures(folder: Path, num_shards: int) -> Iterator[Figure]:
    """Yield what the rows of all edits take, which report and rounds look at: those of one shard, so many times."""
    run = load_run_file(DEMO, overrides=[f"data.num_sources={NUM_DEMO}", *DEMO_OVERRIDES])
    rundir = make_in_process(run, folder / "rows", [0])
    rows, marker = rundir.storage.read(rows_path(0)), rundir.marker(0)
    for index in range(1, num_shards):
        rundir.storage.local_path(rows_path(index)).write_bytes(rows)
        files = {rows_path(index): marker.files[rows_path(0)]}
        _copy(rundir.storage, replace(marker, shard=index, files=files))
    num_rows = rundir.read_rows(0).num_rows * num_shards
    read = measure("tests.benchmarks.resuming:read_rows", str(folder / "rows"))
    nothing = measure("tests.benchmarks.resuming:open_run", str(folder / "rows"))
    more = (read.peak_mib - nothing.peak_mib) * 2**20 / num_rows
    yield Figure(name="rows.seconds", value=read.seconds * MILLION / num_rows, n=num_rows, unit="s a million")
    yield Figure(name="rows.memory", value=more, n=num_rows, unit="bytes an edit")


def open_run(out: str) -> int:
    """Import what reading rows needs, and read those of one shard."""
    return int(RunDirectory.open(out).read_rows(0).num_rows)


def read_rows(out: str) -> int:
    """Read the rows of every edit as the report does."""
    return int(RunDirectory.open(out).candidates().num_rows)


def scan(out: str) -> int:
    """Do what a run that goes on does before its first shard is sent to work; return how many are to be made."""
    rundir = RunDirectory.open(out)
    rundir.tidy()
    done = rundir.done()
    pending = rundir.pending()
    MarkerFollower(rundir, rundir.info.num_shards, 0, done)
    return len(pending)


def read_all(out: str) -> str:
    """Read every marker as `status` does, and keep none."""
    rundir = RunDirectory.open(out)
    return describe(snapshot(rundir.read_markers(rundir.done()), rundir.info.num_shards, 0))


def keep_all(out: str) -> int:
    """Read every marker as the report does, and keep them."""
    return len(RunDirectory.open(out).markers())


def commit(rundir: RunDirectory, plan: Plan, index: int) -> Marker:
    """Commit a shard of one source with its edits."""
    results = [result for key in plan.keys(index) for result in tiny_group(key)]
    return commit_shard(rundir, index, plan.keys(index), results, {"editor": 2.5, "verifier": 0.5})


def fill(rundir: RunDirectory, plan: Plan) -> None:
    """Commit a shard, then copy its marker to the others, but for some."""
    marker = commit(rundir, plan, 1)
    copied = [index for index in range(plan.num_shards) if index % PENDING_EVERY and index != 1]
    with ThreadPoolExecutor(NUM_WRITERS if not rundir.storage.is_local else 1) as pool:
        for _ in pool.map(lambda index: _copy(rundir.storage, replace(marker, shard=index)), copied):
            pass


def _copy(storage: Storage, marker: Marker) -> None:
    if storage.is_local:
        # Not synced to the disk each: it is the scan that is measured.
        storage.local_path(marker_path(marker.shard)).write_bytes(marker.to_json())
    else:
        storage.create(marker_path(marker.shard), marker.to_json())


def _planned(folder: Path, num_shards: int) -> tuple[RunFile, Plan]:
    run = run_of(write_table(folder, num_shards), sources_per_shard=1, train_share=1.0)
    return run, make_plan(run)
