"""The end of an actor: at once, and only of an actor."""

import atexit
from pathlib import Path

import psutil
from waiting import wait_until

from cluster.session.worker import exit_without_teardown


def has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_an_actor_ends_without_the_end_of_its_interpreter_and_a_driver_with_it(
    generation_ray: None, tmp_path: Path
) -> None:
    import ray

    class Ends:
        """Touch a file at the interpreter's end, and leave before that where asked."""

        def __init__(self, path: Path, quickly: bool) -> None:
            atexit.register(path.touch)
            if quickly:
                exit_without_teardown()

        def pid(self) -> int:
            return psutil.Process().pid

    def end_of(quickly: bool) -> bool:
        path = tmp_path / str(quickly)
        actor = ray.remote(num_cpus=0.1)(Ends).remote(path, quickly)
        pid = ray.get(actor.pid.remote())
        # The last reference: Ray ends the actor as it does those of a pool that is done.
        del actor
        wait_until(lambda: has_ended(pid), 60)
        return path.exists()

    before = atexit._ncallbacks()
    exit_without_teardown()
    assert atexit._ncallbacks() == before
    assert end_of(quickly=False)
    assert not end_of(quickly=True)
