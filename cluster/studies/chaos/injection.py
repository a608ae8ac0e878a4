"""The faults: each strikes a run once."""

import time
from collections.abc import Callable
from typing import assert_never

from cluster.studies.chaos.driver import kill_all
from cluster.studies.chaos.faults import Fault
from cluster.studies.chaos.moments import Moment, wait_for
from cluster.studies.chaos.world import World

# Between one strike and the next, where none waits for a moment of writing: an actor has to load its models.
ACTOR_PAUSE_S, NODE_PAUSE_S = 12.0, 16.0
# A spot machine goes two minutes after its notice, and another comes when it comes; here nobody waits so long.
NOTICE_S, BACK_S, LATE_S = 10.0, 5.0, 10.0


def strike_of(fault: Fault) -> Callable[[World], None]:
    """Return the function that strikes a run once, or does nothing where it has ended before."""
    match fault:
        case "driver":
            return strike_driver
        case "actor":
            return strike_actor
        case "node":
            return strike_node
        case "drain":
            return strike_drain
        case "late":
            return strike_late
        case "storm":
            return strike_storm
        case _:
            assert_never(fault)


def strike_driver(world: World) -> None:
    """Kill the driver at a drawn moment, every second time with all of its processes; start another."""
    # A run that goes on from some shards is over sooner than the undisturbed one.
    moment = Moment.draw(world.chance, world.case.calm_s / 2)
    with_others = world.chance.random() < 0.5
    if not wait_for(moment, world.out, world.is_over):
        return
    others = world.driver.processes()
    with world.noted("driver with its workers" if with_others else "driver"):
        world.driver.kill(others if with_others else ())
        world.leave_behind(others)
    # At once, as a person does: what the first one started may still be at work.
    world.start()


def strike_actor(world: World) -> None:
    """Kill one worker of a drawn kind: an actor of some pool, or a task that reads or commits."""
    if not world.pause(ACTOR_PAUSE_S):
        return
    workers = world.workers()
    if workers:
        kind = world.chance.choice(sorted(workers))
        with world.noted(kind):
            kill_all([world.chance.choice(workers[kind])])


def strike_node(world: World) -> None:
    """Kill the older node with all that works on it; another joins later."""
    assert world.nodes is not None
    if world.pause(NODE_PAUSE_S):
        with world.noted("node"):
            world.nodes.kill(world.nodes.alive[0])
        world.pause(BACK_S)
        world.watch(world.join())


def strike_drain(world: World) -> None:
    """Give the older node notice, let another join, and kill the first when its time has come."""
    assert world.nodes is not None
    if world.pause(NODE_PAUSE_S):
        node, end = world.nodes.alive[0], time.monotonic() + NOTICE_S
        world.nodes.drain(node, NOTICE_S)
        new = world.join()
        time.sleep(max(end - time.monotonic(), 0))
        with world.noted("drained node"):
            world.nodes.kill(node)
        world.watch(new)


def strike_late(world: World) -> None:
    """Let a node join a run that waits for one: the first, or a second for the actors that have no room on it."""
    assert world.nodes is not None
    is_first = not world.nodes.alive
    if wait_for(Moment(kind="any", after_s=LATE_S), world.out, world.is_over):
        with world.noted("first node late" if is_first else "second node late"):
            new = world.join()
        world.watch(new)


def strike_storm(world: World) -> None:
    """Kill the driver, an actor and a node in one moment; start another driver, and let another node join."""
    assert world.nodes is not None
    if not world.pause(NODE_PAUSE_S):
        return
    actors = [process for pool in world.workers().values() for process in pool]
    with world.noted("driver, actor and node"):
        world.driver.kill([world.chance.choice(actors)] if actors else [])
        world.nodes.kill(world.chance.choice(world.nodes.alive))
    world.start()
    world.watch(world.join())
