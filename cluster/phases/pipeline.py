"""A whole run: plan, generate, probe, reinforce, report. A phase whose result exists for the same inputs is skipped.

With several rounds each round is a `generate` phase, and from the second on an `allocate` phase comes before it.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from actors.zoo import MODELS_FOLDER
from cluster.phases.arms import evaluate_arms
from cluster.phases.attribution import attribute_run
from cluster.phases.phase import Phase, PhaseLog
from cluster.phases.probe import probe_run
from cluster.phases.reinforce import reinforce_run
from cluster.phases.rounds import allocate_round, check_rounds_done, generate_round
from cluster.session.placement import generate_needs, probe_needs, reinforce_needs
from cluster.session.session import SessionConfig, ray_session
from engine.plan.hash_store import HashStore
from engine.plan.plan import Plan, make_plan
from engine.rounds.allocation import FIRST_ALLOCATED, allocation_path, shards_by_round
from engine.run.directory import EVALUATION, REINFORCE, RETRIES, RUN_FILE, WEAKNESS, RunDirectory
from engine.run.lease import held
from engine.runfile.load import dump_run_file
from engine.runfile.probe import ProbeConfig
from engine.runfile.run import RunFile
from engine.storage.storage import Storage

if TYPE_CHECKING:
    from rich.console import Console

LOG = logging.getLogger(__name__)
ALL_PHASES = ("generate", "allocate", "probe", "reinforce", "report")
REPORT = "report/index.html"
# Settings that affect no result: they are not part of a phase's digest.
NO_INPUTS: Mapping[str, Any] = {"placement": True, "max_failures": True, "num_workers": True, "follow_timeout_s": True}


def open_run(run: RunFile, out: str, check: Callable[[RunFile, Plan], None] | None = None) -> tuple[RunDirectory, Plan]:
    """Plan a run and create its directory, or open the directory of the same plan.

    `check` is called before the directory is created, or its run file changed, so that what it refuses leaves no trace.
    """
    start = monotonic()
    storage = Storage(out)
    store = HashStore(storage)
    plan = make_plan(run, store)
    shards_by_round(plan, run.rounds)  # refuses too many rounds before anything is written
    if check is not None and not (storage.exists(RUN_FILE) and storage.read(RUN_FILE) == dump_run_file(run).encode()):
        check(run, plan)
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

    Raises RunDirectoryError where another process holds the lease of one of them, unless `take_over` fences it off.
    """
    log = PhaseLog(rundir)
    phases = [phase for phase in all_phases(run, rundir, plan, console) if phase.name in names]
    # A phase that runs may change the inputs of those after it, and the report shows them all.
    start = 0 if again else next((place for place, phase in enumerate(phases) if not log.is_done(phase)), len(phases))
    for phase in phases[:start]:
        LOG.info("%s: nothing to do, its result is there", phase.name)
    needs = [part for phase in phases[start:] for part in phase.needs]
    with held(rundir.storage, [phase.lease for phase in phases[start:]], take_over=take_over) as leases:
        rundir = rundir.with_lease(leases.get("generate"))
        pending = [phase for phase in all_phases(run, rundir, plan, console) if phase.name in names][start:]
        if needs:
            LOG.info("starting Ray%s", f" on {session.address}" if session and session.address else "")
        changed = again
        with ray_session(needs, session) if needs else nullcontext():
            for phase in pending:
                # A damaged shard gets its old bytes again, so results that were made from it stay valid.
                if not changed and log.is_done(phase):
                    LOG.info("%s: nothing to do, its result is there", phase.name)
                    continue
                LOG.info("%s: started", phase.name)
                with log.timed(phase):
                    phase.run()
                changed = changed or phase.name != "generate"


def all_phases(
    run: RunFile, rundir: RunDirectory, plan: Plan, console: "Console | None" = None, *, follow: bool = False
) -> list[Phase]:
    """Return the phases after the plan, in order; with `follow` the training does not wait for all shards."""

    def probe_digest() -> str:
        # What `files` and `version` decide is in the stamps.
        config = run.probe.model_dump(mode="json", exclude={*NO_INPUTS, "files", "version"})
        models = [*([run.probe.model] if run.probe.model else []), *run.probe.transfer]
        stamps = [*map(model_stamp, (model.name for model in models)), *function_stamps(run.probe)]
        # A retry replaces shards; of probe and training only what depends on those is repeated.
        retries = [rundir.read_json(RETRIES)] if rundir.exists(RETRIES) else []
        # Probe and training also compute attributions: more of them are another input.
        return digest_of(plan.digest, rundir.done(), *retries, config, stamps, run.report.num_attributions)

    def reinforce_digest() -> str:
        config = run.reinforce.model_dump(mode="json", exclude=dict(NO_INPUTS))
        return digest_of(probe_digest(), run.data.model_dump(mode="json"), config, run.report.group_by)

    def report_digest() -> str:
        return digest_of(reinforce_digest(), run.report.model_dump(mode="json"))

    def exist(*names: str) -> Callable[[], bool]:
        return lambda: all(map(rundir.exists, names))

    return [
        *_round_phases(run, rundir, plan, console),
        Phase(
            name="probe",
            needs=[probe_needs(run.probe)],
            is_there=exist(WEAKNESS),
            digest=probe_digest,
            run=lambda: _probe(run, rundir),
        ),
        Phase(
            name="reinforce",
            needs=[*([reinforce_needs(run.reinforce)] if run.probe.model else []), probe_needs(run.probe)],
            is_there=exist(*((REINFORCE,) if run.probe.model else ()), EVALUATION),
            digest=reinforce_digest,
            run=lambda: _reinforce(run, rundir, follow=follow),
        ),
        Phase(name="report", needs=(), is_there=exist(REPORT), digest=report_digest, run=lambda: _report(run, rundir)),
    ]


def _round_phases(run: RunFile, rundir: RunDirectory, plan: Plan, console: "Console | None") -> Iterator[Phase]:
    """Yield `generate` for each round, and before each but the first `allocate`, which trains from the third on."""
    for number, shards in enumerate(shards_by_round(plan, run.rounds), 1):
        if number >= FIRST_ALLOCATED:
            training = [reinforce_needs(run.reinforce)] if number > FIRST_ALLOCATED else []
            yield Phase(
                name="allocate",
                needs=[probe_needs(run.probe), *training],
                is_there=partial(_is_allocated, rundir, number, shards),
                run=partial(allocate_round, run, rundir, plan, number),
            )
        yield Phase(
            name="generate",
            needs=[generate_needs(run)],
            is_there=partial(_are_made, rundir, shards),
            run=partial(generate_round, run, rundir, plan, number, console),
        )


def _are_made(rundir: RunDirectory, shards: Sequence[int]) -> bool:
    return not set(shards) & set(rundir.pending())


def _is_allocated(rundir: RunDirectory, number: int, shards: Sequence[int]) -> bool:
    # A finished round needs no allocation any more, as in a selection of a run.
    return rundir.exists(allocation_path(number)) or _are_made(rundir, shards)


def model_stamp(name: str) -> str | None:
    """Return a digest of the file names, sizes and times of a local or zoo model; None for a hub id."""
    folder = MODELS_FOLDER / name.removeprefix("zoo/") if name.startswith("zoo/") else Path(name)
    return _stamp(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else None


def function_stamps(config: ProbeConfig) -> list[str]:
    """Return a digest of a function's `version` and of its source file and `files` by name, size and time.

    A checkpoint has none.
    """
    if config.callable is None:
        return []
    spec = None
    with suppress(ImportError, ValueError):  # the probe says so
        spec = find_spec(config.callable.partition(":")[0])
    named = map(Path, (*config.files, *([spec.origin] if spec and spec.origin else [])))
    files = (path for place in named for path in (place, *place.rglob("*")) if path.is_file())
    return [digest_of(_stamp(files), config.version)]


def _stamp(paths: Iterable[Path]) -> str:
    return digest_of([[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(paths)])


def digest_of(*inputs: object) -> str:
    """Return a short digest of JSON values."""
    return hashlib.blake2b(json.dumps(inputs, sort_keys=True).encode(), digest_size=16).hexdigest()


def _probe(run: RunFile, rundir: RunDirectory) -> None:
    probe_run(run, rundir)
    attribute_run(run, rundir, ("patient",))


def _reinforce(run: RunFile, rundir: RunDirectory, *, follow: bool = False) -> None:
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
