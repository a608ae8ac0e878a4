"""The generate phase: send every pending shard of a plan through the stages and commit it."""

import json
import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from cluster.dataflow.dataflow import run_dataflow
from cluster.dataflow.shard_row import ShardRow
from cluster.dataflow.stage_watch import dataflow_activity
from cluster.monitor.meters import RunMeter
from cluster.monitor.progress import MarkerFollower, Progress
from cluster.monitor.watchdog import Watchdog
from cluster.session.placement import generate_needs
from cluster.session.session import cluster_resources
from engine.errors import DiskFullError, RunError
from engine.plan.estimate import describe_missing
from engine.plan.plan import Plan, PlannedItem
from engine.rounds.allocation import Allocation
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory
from engine.runfile.data import AnySource
from engine.runfile.run import RunFile
from engine.sample import Rejection, Sample
from engine.selection.early import as_pilot, make_cut, split_pilot
from engine.shards.marker import Marker
from engine.sources import STAGE, SourceItem, open_source, read_sample

if TYPE_CHECKING:
    from rich.console import Console

LOG = logging.getLogger(__name__)


def generate_run(
    run: RunFile,
    rundir: RunDirectory,
    plan: Plan,
    console: "Console | None" = None,
    shards: Sequence[int] | None = None,
    allocation: Allocation | None = None,
) -> None:
    """Make every shard of the plan (or of `shards`) that has no marker yet; needs a Ray session.

    With an `allocation` the edits follow it, and the markers have its SHA-256. With early rejection the calibration
    shards come first, and the markers of the others have the SHA-256 of the thresholds that follow from them. Raises
    RunError, or the EngineError of a stage (ModelError, ...), naming stage and shard.
    """
    wanted = range(plan.num_shards) if shards is None else shards
    if not set(wanted) - set(rundir.done()):
        LOG.info("generate: all %d shards are there", len(wanted))
        return
    allocated = run if allocation is None else allocation.apply_to(run)
    commit = partial(commit_row, rundir, allocation=None if allocation is None else allocation.sha256)
    pilots, others = split_pilot(run, wanted)
    if pilots:
        _make_shards(as_pilot(allocated), rundir, plan, pilots, commit, console)
        cut = make_cut(run, rundir, pilots, others, 1 if allocation is None else allocation.number)
        LOG.info("early rejection: %s", cut.describe())
        allocated, commit = cut.apply_to(allocated), partial(commit, early=cut.sha256)
    _make_shards(allocated, rundir, plan, others, commit, console)


def _make_shards(
    run: RunFile,
    rundir: RunDirectory,
    plan: Plan,
    wanted: Sequence[int],
    commit: Callable[[ShardRow], Marker],
    console: "Console | None",
) -> None:
    """Make the wanted shards that have no marker yet."""
    done = rundir.done()
    pending = sorted(set(wanted) - set(done))
    if not pending:
        return
    reader = partial(PlannedShard, run.data.train, plan)
    follower = MarkerFollower(rundir, plan.num_shards, plan.num_edited, done, RunMeter(rundir))
    watchdog = Watchdog(run.limits, generate_needs(run), rundir.storage, dataflow_activity, cluster_resources)
    with Progress(follower, dataflow_activity, watchdog, console) as progress:
        try:
            for marker in run_dataflow(run, pending, reader, commit, rundir.storage, plan.classes):
                follower.add(marker)
        except DiskFullError as error:
            raise DiskFullError(f"{error}. {describe_missing(run, plan, rundir.markers())}") from error
        except KeyboardInterrupt:
            if progress.ended is None:
                raise
            raise RunError(progress.ended) from None
    # Safe, since this process has the lease: later writes of abandoned workers are refused.
    rundir.tidy(everyone=True)
    if missing := sorted(set(rundir.pending()) & set(wanted)):
        raise RunError(
            f"{len(missing)} shards have no marker in {rundir.storage} after the run, the first is {missing[0]}. "
            "On several machines --out must be a folder that all of them share, or an object store"
        )


class PlannedShard:
    """Read the source images of one shard, in a task.

    On the driver it holds no items: those of all shards of a large plan would fill its memory. They are looked up when
    it is pickled for its task, and compressed.
    """

    def __init__(self, source: AnySource, plan: Plan, index: int) -> None:
        self._source, self._plan, self._index = source, plan, index

    def __call__(self) -> ShardRow:
        """Return the shard's sources."""
        return read_planned(self._source, self._index, self._plan.shard(self._index))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the items of this shard only."""
        items = [(asdict(item), split) for item, split in self._plan.shard(self._index)]
        packed = zlib.compress(json.dumps(items).encode())
        return partial, (_read_packed, self._source, self._index, packed)


def read_planned(source: AnySource, index: int, items: Sequence[PlannedItem]) -> ShardRow:
    """Read the source images of one shard; unreadable ones become rejections. Runs in a task."""
    start = perf_counter()
    reader = open_source(source)
    results = [read_sample(reader, item, split) for item, split in items]
    return ShardRow(
        shard=index,
        planned=[item.key for item, _ in items],
        samples=[result for result in results if isinstance(result, Sample)],
        rejections=[result for result in results if isinstance(result, Rejection)],
        seconds={STAGE: perf_counter() - start},
    )


def commit_row(rundir: RunDirectory, row: ShardRow, allocation: str | None = None, early: str | None = None) -> Marker:
    """Commit one shard, with the SHA-256 of its allocation and of its early-stop thresholds. Runs in a task."""
    results: list[Sample | Rejection] = [*row.samples, *row.rejections]
    return commit_shard(
        rundir, row.shard, row.planned, results, row.seconds, allocation, early, row.calls, row.machines
    )


def _read_packed(source: AnySource, index: int, packed: bytes) -> ShardRow:
    items = [PlannedItem(SourceItem(**item), split) for item, split in json.loads(zlib.decompress(packed))]
    return read_planned(source, index, items)
