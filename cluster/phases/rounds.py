"""The phases of rounds: generate the shards of a round, and allocate the edits of the next from its classifier."""

import logging
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from cluster.phases.arms import trained_ref
from cluster.phases.classifiers import ClassifierRef
from cluster.phases.probe import probe_run, probe_shards, read_predictions
from cluster.phases.reinforce import reinforce_run
from engine.errors import RunError
from engine.plan.plan import Plan
from engine.probe.pairs import read_pairs
from engine.rounds.allocate import Evidence, allocate
from engine.rounds.allocation import FIRST_ALLOCATED, FOLDER, allocation_path, read_allocation, shards_by_round
from engine.run.directory import RunDirectory, marker_path
from engine.runfile.run import RunFile

if TYPE_CHECKING:
    from rich.console import Console

LOG = logging.getLogger(__name__)


def generate_round(
    run: RunFile, rundir: RunDirectory, plan: Plan, number: int, console: "Console | None" = None
) -> None:
    """Generate the shards of round `number` (from 1); from round 2 on only if its allocation exists."""
    # Not at the top: it imports Ray.
    from cluster.phases.generate import generate_run

    shards = shards_by_round(plan, run.rounds)[number - 1]
    if number == 1:
        return generate_run(run, rundir, plan, console, shards)
    if not rundir.exists(allocation_path(number)):
        LOG.warning("generate: round %d waits until `counterforge run` has allocated its edits", number)
        return None
    return generate_run(run, rundir, plan, console, shards, read_allocation(rundir, number))


def allocate_round(run: RunFile, rundir: RunDirectory, plan: Plan, number: int) -> None:
    """Probe the newest classifier on validation edits, and write the allocation of round `number`.

    An existing allocation is never changed: shards were made by it. Needs a Ray session.
    """
    if rundir.exists(allocation_path(number)):
        return
    rounds = shards_by_round(plan, run.rounds)
    if not _needs_allocation(rundir, number, rounds):
        return
    digest = probe_shards(_newest_classifier(run, rundir, number), rundir, rounds[0])
    evidence = Evidence(
        plan=plan.digest,
        classifier=digest,
        pairs=read_pairs(read_predictions(rundir, digest, rounds[0])),
        candidates=rundir.candidates(),
    )
    allocation = allocate(run, plan.classes, number, evidence)
    rundir.storage.create(allocation_path(number), allocation.data)
    shares = ", ".join(f"{100 * share:.0f} % on {kind}" for kind, share in allocation.by_kind())
    LOG.info("allocate: round %d spends %s", number, shares)


def _newest_classifier(run: RunFile, rundir: RunDirectory, number: int) -> ClassifierRef:
    """Return the classifier under test, from the third round on the one that is fine-tuned on the rounds before."""
    patient = ClassifierRef(config=run.probe, classes=rundir.info.classes, offline=run.offline)
    if number == FIRST_ALLOCATED:
        return patient
    probe_run(run, rundir)
    # The classifier of a round is only asked where it is weak: the arms are compared after the last round.
    ships = run.reinforce.ships
    only = {"arms": {ships: run.reinforce.arms[ships]}}
    one_arm = run.model_copy(update={"reinforce": run.reinforce.model_copy(update=only)})
    result: Any = reinforce_run(one_arm, rundir, f"{FOLDER}/{number - 1:03d}_training.json")
    arm = result["arms"].get(ships)
    return patient if arm is None else trained_ref(run, rundir, arm["model"])


def _needs_allocation(rundir: RunDirectory, number: int, rounds: Sequence[Sequence[int]]) -> bool:
    """Return whether a round needs an allocation; RunError if earlier shards are missing or its own are partly made."""
    pending = set(rundir.pending())
    if missing := pending.intersection(chain.from_iterable(rounds[: number - 1])):
        raise RunError(
            f"{len(missing)} shards of the rounds before round {number} are not made: run the same command again"
        )
    made = set(rounds[number - 1]) - pending
    if made and made != set(rounds[number - 1]):
        raise RunError(
            f"{len(made)} shards of round {number} were made by an allocation that is gone: restore "
            f"{rundir.storage.name(allocation_path(number))}, or delete their markers (the first is "
            f"{marker_path(min(made))}) and run the same command again"
        )
    return not made


def check_rounds_done(run: RunFile, rundir: RunDirectory) -> None:
    """Raise RunError if shards of rounds are missing: the test images are used once, after the last round."""
    if run.rounds.count > 1 and (pending := rundir.pending()):
        raise RunError(
            f"{len(pending)} shards of {run.rounds.count} rounds are missing, and the test images are used once, after "
            "the last round: go on with `counterforge run`"
        )
