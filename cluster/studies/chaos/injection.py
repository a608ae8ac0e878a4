"""The fault injectors: each injects its fault into a run once, or does nothing if the run has ended."""

import time
from collections.abc import Callable, Mapping

from cluster.studies.chaos.driver import kill_all
from cluster.studies.chaos.fault_run import FaultRun
from cluster.studies.chaos.faults import Fault
from cluster.studies.chaos.moments import Moment, wait_for

# Mean time between faults that do not wait for a moment of writing: an actor has to load its models.
ACTOR_PAUSE_S, NODE_PAUSE_S = 12.0, 16.0
# Much shorter than on a cloud, where a spot machine ends two minutes after its notice.
NOTICE_S, BACK_S, LATE_S = 10.0, 5.0, 10.0


def kill_driver(run: FaultRun) -> None:
    """Kill the driver at a random moment, half of the times with all of its processes; start another."""
    # A resumed run ends sooner than the baseline.
    moment = Moment.draw(run.rng, run.case.baseline_s / 2)
    with_others = run.rng.random() < 0.5
    if not wait_for(moment, run.out, run.is_over):
        return
    others = run.driver.processes()
    with run.fault("driver with its workers" if with_others else "driver"):
        run.driver.kill(others if with_others else ())
        run.orphan(others)
    # At once: processes of the first driver may still be working.
    run.start()


def kill_actor(run: FaultRun) -> None:
    """Kill one worker of a random kind: an actor of some pool, or a task that reads or commits."""
    if run.pause(ACTOR_PAUSE_S) and (workers := run.workers()):
        kind = run.rng.choice(sorted(workers))
        with run.fault(kind):
            kill_all([run.rng.choice(workers[kind])])


def kill_node(run: FaultRun) -> None:
    """Kill the older node with all of its processes; add another later."""
    if run.pause(NODE_PAUSE_S):
        with run.fault("node"):
            run.nodes.kill(run.nodes.alive[0])
        run.pause(BACK_S)
        run.wait_until_used(run.nodes.add())


def drain_node(run: FaultRun) -> None:
    """Give the older node a preemption notice, add another, and kill the first when its time is over."""
    if run.pause(NODE_PAUSE_S):
        node, end = run.nodes.alive[0], time.monotonic() + NOTICE_S
        run.nodes.drain(node, NOTICE_S)
        new = run.nodes.add()
        time.sleep(max(end - time.monotonic(), 0))
        with run.fault("drained node"):
            run.nodes.kill(node)
        run.wait_until_used(new)


def add_node_late(run: FaultRun) -> None:
    """Add a node to a run that waits for it: the first, or a second for the actors that do not fit on the first."""
    is_first = not run.nodes.alive
    if wait_for(Moment(kind="any", after_s=LATE_S), run.out, run.is_over):
        with run.fault("first node late" if is_first else "second node late"):
            new = run.nodes.add()
        run.wait_until_used(new)


def kill_all_kinds(run: FaultRun) -> None:
    """Kill the driver, an actor and a node at once; start another driver and add another node."""
    if not run.pause(NODE_PAUSE_S):
        return
    actors = [process for pool in run.workers().values() for process in pool]
    with run.fault("driver, actor and node"):
        run.driver.kill([run.rng.choice(actors)] if actors else [])
        run.nodes.kill(run.rng.choice(run.nodes.alive))
    run.start()
    run.wait_until_used(run.nodes.add())


INJECTORS: Mapping[Fault, Callable[[FaultRun], None]] = {
    "driver": kill_driver,
    "actor": kill_actor,
    "node": kill_node,
    "drain": drain_node,
    "late": add_node_late,
    "storm": kill_all_kinds,
}
