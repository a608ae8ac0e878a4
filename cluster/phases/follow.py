"""`reinforce --follow`: training that starts while the images are still being made, here or by another process.

The first arm with edits starts once a shard is done that it can train on. Half of its steps keep pace with the shards:
when a third of them is done it has made a sixth of its steps. After each few steps the first worker lists the markers,
checks each new shard for leaks as ever, and tells the others. Nothing is chosen meanwhile. Once all shards are done the
rest of the steps is made on all of them, every candidate is scored on the same validation edits, and the other arms
follow as usual; all arms make the same number of steps.
"""

import logging
from time import monotonic, sleep
from typing import TYPE_CHECKING

from engine.errors import RunError, RunFileError
from engine.plan.plan import Plan
from engine.run.directory import RunDirectory
from engine.run.lease import held
from engine.runfile.run import RunFile
from engine.training.recipe import nothing_came
from engine.training.settings import trained_model

if TYPE_CHECKING:
    from cluster.session.session import SessionConfig

LOG = logging.getLogger(__name__)
POLL_S = 2.0


def follow_run(
    run: RunFile,
    rundir: RunDirectory,
    plan: Plan,
    session: "SessionConfig | None" = None,
    take_over: bool = False,
) -> None:
    """Wait for the first shard, then train, score and evaluate while the others come; write reinforce.json.

    Raises RunFileError where the run cannot be followed, RunError where nothing comes for reinforce.follow_timeout_s.
    """
    from cluster.phases.phase import PhaseLog
    from cluster.phases.pipeline import all_phases
    from cluster.session.session import ray_session

    if run.rounds.count > 1:
        raise RunFileError("--follow is for a run of one round: each round waits for what those before it found")
    trained_model(run)
    phase = next(phase for phase in all_phases(run, rundir, plan, follow=True) if phase.name == "reinforce")
    with held(rundir.storage, [phase.lease], take_over=take_over):
        _wait_for_the_first(run, rundir, plan)
        with ray_session(phase.needs, session), PhaseLog(rundir).timed(phase):
            phase.run()


def _wait_for_the_first(run: RunFile, rundir: RunDirectory, plan: Plan) -> None:
    """Wait until a shard of train sources with an accepted edit is done, or all are."""
    num_done, since = -1, 0.0
    while True:
        done = rundir.done()
        if len(done) == plan.num_shards or any(
            index < plan.num_train_shards and rundir.marker(index).counts.accepted > 0 for index in done
        ):
            return
        if len(done) != num_done:
            LOG.info("reinforce: waits for a shard to train on, %d of %d are done", len(done), plan.num_shards)
            num_done, since = len(done), monotonic()
        if monotonic() - since > run.reinforce.follow_timeout_s:
            raise RunError(nothing_came(run.reinforce.follow_timeout_s, len(done), plan.num_shards))
        sleep(POLL_S)
