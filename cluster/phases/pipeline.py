"""A whole run: plan, generate, probe, reinforce, report; what is there for the same inputs is not done again.

With several rounds it generates in parts, and allocates the edits of the next part between them.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from actors.zoo import MODELS_FOLDER
from cluster.phases.phase import Phase, PhaseLog
from cluster.session.placement import generate_needs, probe_needs, reinforce_needs
from cluster.session.session import SessionConfig, ray_session
from engine.plan.hash_store import HashStore
from engine.plan.plan import Plan, make_plan
from engine.rounds.allocation import allocation_path, shards_by_round
from engine.run.directory import EVALUATION, REINFORCE, RETRIES, WEAKNESS, RunDirectory
from engine.run.lease import held
from engine.runfile.run import RunFile
from engine.storage.storage import Storage

if TYPE_CHECKING:
    from rich.console import Console

LOG = logging.getLogger(__name__)
ALL_PHASES = ("generate", "allocate", "probe", "reinforce", "report")
REPORT = "report/index.html"
# Where something runs and how it is shown decides no result.
NO_INPUTS: Mapping[str, Any] = {"placement": True, "max_failures": True, "num_workers": True, "follow_timeout_s": True}


def open_run(run: RunFile, out: str) -> tuple[RunDirectory, Plan]:
    """Plan a run and make its directory, or go on in it."""
    start = monotonic()
    store = HashStore(Storage(out))
    plan = make_plan(run, store)
    shards_by_round(plan, run.rounds)  # refuses too many rounds before anything is written
    rundir = RunDirectory.create(out, run, plan)
    store.save(rundir.storage)
    PhaseLog(rundir).add("plan", monotonic() - start)
    LOG.info("plan: %d sources in %d shards, in %s", plan.num_edited, plan.num_shards, rundir.storage)
    for line in plan.near_duplicates.describe() if plan.near_duplicates else ():
        LOG.info("plan: %s", line)
    return rundir, plan


def run_phases(
    names: Sequence[str],
    run: RunFile,
    rundir: RunDirectory,
    plan: Plan,
    session: SessionConfig | None = None,
    console: "Console | None" = None,
    again: bool = False,
    take_over: bool = False,
) -> None:
    """Run the named phases in order, in one Ray session; with `again` also those that are done.

    Raises RunDirectoryError where another process does one of them, unless `take_over` fences that off.
    """
    log = PhaseLog(rundir)
    if "reinforce" in names:
        check_test_sets(run, plan)
    phases = [phase for phase in all_phases(run, rundir, plan, console) if phase.name in names]
    pending: list[Phase] = []
    for phase in phases:
        # A phase that runs may make new inputs for those after it; the report shows them all.
        if pending or again or not log.is_done(phase):
            pending.append(phase)
        else:
            LOG.info("%s: nothing to do, its result is there", phase.name)
    needs = [part for phase in pending for part in phase.needs]
    with held(rundir.storage, [phase.lease for phase in pending], take_over=take_over) as leases:
        rundir.lease = leases.get("generate")
        if not needs:
            return _run_all(pending, log, again)
        LOG.info("starting Ray%s", f" on {session.address}" if session and session.address else "")
        with ray_session(needs, session):
            return _run_all(pending, log, again)


def all_phases(
    run: RunFile, rundir: RunDirectory, plan: Plan, console: "Console | None" = None, *, follow: bool = False
) -> list[Phase]:
    """Return the phases after the plan, in order; with `follow` the training does not wait for all shards."""

    def probe_digest() -> str:
        config = run.probe.model_dump(mode="json", exclude=dict(NO_INPUTS))
        models = [*([run.probe.model] if run.probe.model else []), *run.probe.transfer]
        stamps = [model_stamp(model.name) for model in models]
        # Probe and training map where the evidence moved: what is done of them is found again, and only that is made.
        retries = [rundir.read_json(RETRIES)] if rundir.exists(RETRIES) else []
        return digest_of(plan.digest, rundir.done(), *retries, config, stamps, run.report.num_attributions)

    def reinforce_digest() -> str:
        config = run.reinforce.model_dump(mode="json", exclude=dict(NO_INPUTS))
        return digest_of(probe_digest(), run.data.model_dump(mode="json"), config, run.report.group_by)

    def report_digest() -> str:
        return digest_of(reinforce_digest(), run.report.model_dump(mode="json"))

    def results(*names: str) -> Callable[[], bool]:
        return lambda: all(map(rundir.exists, names))

    return [
        *_round_phases(run, rundir, plan, console),
        Phase(
            name="probe",
            needs=[probe_needs(run)],
            is_there=results(WEAKNESS),
            digest=probe_digest,
            run=lambda: _probe(run, rundir),
        ),
        Phase(
            name="reinforce",
            needs=[*([reinforce_needs(run)] if run.probe.model else []), probe_needs(run)],
            is_there=results(*((REINFORCE,) if run.probe.model else ()), EVALUATION),
            digest=reinforce_digest,
            run=lambda: _reinforce(run, rundir, follow=follow),
        ),
        Phase(
            name="report", needs=(), is_there=results(REPORT), digest=report_digest, run=lambda: _report(run, rundir)
        ),
    ]


def _round_phases(run: RunFile, rundir: RunDirectory, plan: Plan, console: "Console | None") -> Iterator[Phase]:
    """Yield `generate` for each round, and before it, from the second on, `allocate`."""
    for number, shards in enumerate(shards_by_round(plan, run.rounds), 1):
        if number > 1:
            yield Phase(
                name="allocate",
                needs=[probe_needs(run), reinforce_needs(run)],
                is_there=partial(_is_allocated, rundir, number, shards),
                digest=lambda: None,
                run=partial(_allocate, run, rundir, plan, number),
            )
        yield Phase(
            name="generate",
            needs=[generate_needs(run)],
            is_there=partial(_are_made, rundir, shards),
            digest=lambda: None,
            run=partial(_generate, run, rundir, plan, number, console),
        )


def _are_made(rundir: RunDirectory, shards: Sequence[int]) -> bool:
    return not set(shards) & set(rundir.pending())


def _is_allocated(rundir: RunDirectory, number: int, shards: Sequence[int]) -> bool:
    # A round that is made needs no allocation any more, as in a selection of a run.
    return rundir.exists(allocation_path(number)) or _are_made(rundir, shards)


def model_stamp(name: str) -> str | None:
    """Return a stamp of the files of a local or packaged model, which may change under one name; None for a hub id."""
    folder = MODELS_FOLDER / name.removeprefix("zoo/") if name.startswith("zoo/") else Path(name)
    if not folder.is_dir():
        return None
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return digest_of([[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files])


def check_test_sets(run: RunFile, plan: Plan) -> None:
    """Raise SourceError now where the evaluation would fail hours later: no test image, an unknown attribute."""
    from cluster.phases.arms import test_sets
    from cluster.phases.evaluate import attribute_names

    test_sets(run, plan)
    attribute_names([item for item, _ in plan.of_split("train")], run.report.group_by or None)


def digest_of(*inputs: object) -> str:
    """Return a short digest of values that JSON can hold."""
    return hashlib.blake2b(json.dumps(inputs, sort_keys=True).encode(), digest_size=16).hexdigest()


def _run_all(phases: Sequence[Phase], log: PhaseLog, again: bool) -> None:
    changed = again
    for phase in phases:
        # A shard that was damaged comes out as it was: what was made from it still holds.
        if not changed and log.is_done(phase):
            LOG.info("%s: nothing to do, its result is there", phase.name)
            continue
        LOG.info("%s: started", phase.name)
        with log.timed(phase):
            phase.run()
        changed = changed or phase.name != "generate"


def _generate(run: RunFile, rundir: RunDirectory, plan: Plan, number: int, console: "Console | None") -> None:
    from cluster.phases.rounds import generate_round

    generate_round(run, rundir, plan, number, console)


def _allocate(run: RunFile, rundir: RunDirectory, plan: Plan, number: int) -> None:
    from cluster.phases.rounds import allocate_round

    allocate_round(run, rundir, plan, number)


def _probe(run: RunFile, rundir: RunDirectory) -> None:
    from cluster.phases.attribution import attribute_run
    from cluster.phases.probe import probe_run

    probe_run(run, rundir)
    attribute_run(run, rundir, ("patient",))


def _reinforce(run: RunFile, rundir: RunDirectory, *, follow: bool = False) -> None:
    from cluster.phases.arms import evaluate_arms
    from cluster.phases.attribution import attribute_run
    from cluster.phases.reinforce import reinforce_run
    from cluster.phases.rounds import check_rounds_done

    check_rounds_done(run, rundir)
    if run.probe.model is None:
        LOG.warning("reinforce: probe.callable is a black box, it is scored and not trained")
    else:
        reinforce_run(run, rundir, follow=follow)
    evaluate_arms(run, rundir)
    attribute_run(run, rundir)


def _report(run: RunFile, rundir: RunDirectory) -> None:
    from engine.report.page import write_report

    LOG.info("report: %s", write_report(rundir, run))
