"""The retry of quarantined samples: their groups go through the stages again and are merged into their shards."""

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import partial

from cluster.dataflow.blocks import Read
from cluster.dataflow.dataflow import run_dataflow
from cluster.dataflow.shard_row import ShardRow
from cluster.phases.generate import read_planned
from cluster.session.placement import generate_needs
from cluster.session.session import SessionConfig, ray_session
from engine.plan.plan import Plan
from engine.rounds.allocation import read_allocations
from engine.run.directory import RunDirectory
from engine.run.lease import held
from engine.run.retry import Retry, commit_retried, note_retry
from engine.runfile.data import AnySource
from engine.runfile.run import RunFile
from engine.sample import Rejection, Sample
from engine.selection.early import read_cuts, run_with_cut
from engine.shards.marker import Marker

LOG = logging.getLogger(__name__)
# The phases that write or read shards: no other process may be in one.
LEASES = ("generate", "probe", "reinforce")


def retry_run(
    run: RunFile,
    rundir: RunDirectory,
    reasons: Collection[str] = (),
    session: SessionConfig | None = None,
    take_over: bool = False,
) -> tuple[Retry, Retry]:
    """Retry quarantined samples, all or those of some reasons; return the quarantine before and after.

    Raises SelectionError for a reason that no sample has, RunDirectoryError if another process works on the run.
    """
    before = Retry.of(rundir, reasons)
    if not before.sources:
        return before, before
    plan = rundir.plan()
    with held(rundir.storage, LEASES, take_over=take_over) as leases:
        rundir = rundir.with_lease(leases["generate"])
        LOG.info("starting Ray%s", f" on {session.address}" if session and session.address else "")
        with ray_session([generate_needs(run)], session):
            _retry_shards(run, rundir, plan, before.sources)
        after = Retry.of(rundir)
        after = Retry(sources=after.sources, reasons={name: after.reasons.get(name, 0) for name in before.reasons})
        note_retry(rundir, before, after)
    return before, after


def _retry_shards(run: RunFile, rundir: RunDirectory, plan: Plan, sources: Mapping[int, Collection[str]]) -> None:
    """Send the sources through the stages, with the allocation and the early-stop thresholds of their shard."""
    allocations, cuts = read_allocations(rundir, run.rounds), read_cuts(rundir)
    alike: dict[tuple[str | None, str | None], list[int]] = defaultdict(list)
    for index in sources:
        marker = rundir.marker(index)
        alike[marker.allocation, marker.early].append(index)
    done = 0
    for (allocation, early), shards in alike.items():
        allocated = run if allocation is None else allocations[allocation].apply_to(run)
        allocated = run_with_cut(allocated, cuts, early)
        reader, commit = partial(_reader, run.data.train, plan, sources), partial(_commit, rundir, sources)
        for marker in run_dataflow(allocated, shards, reader, commit, rundir.storage, plan.classes):
            done += 1
            LOG.info("retry: shard %d, %d of %d shards", marker.shard, done, len(sources))


def _reader(source: AnySource, plan: Plan, keys: Mapping[int, Collection[str]], index: int) -> Read:
    items = [planned for planned in plan.shard(index) if planned.item.key in keys[index]]
    return partial(read_planned, source, index, items)


def _commit(rundir: RunDirectory, sources: Mapping[int, Collection[str]], row: ShardRow) -> Marker:
    """Merge one shard. Runs in a task."""
    results: list[Sample | Rejection] = [*row.samples, *row.rejections]
    return commit_retried(rundir, row.shard, sources[row.shard], results, row.seconds, row.machines)
