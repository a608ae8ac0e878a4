"""What every test shares: the order, one thread a process where several run at once, and a Ray session."""

import gc
import os
from collections import Counter
from contextlib import ExitStack

import pytest

from cluster.session.threads import share_cores

share_cores()
if "PYTEST_XDIST_WORKER" in os.environ:
    # Read by torch when it is imported, and by what the tests start: threads of two tests wait for one another's cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# As tests/support/sitecustomize.py for the processes that tests start.
gc.set_threshold(50_000)

# The tests that use this fixture run in one process, one after the other, and share a Ray session. Those that read what
# a command writes are not among them: Ray adds a line there once a session has started many workers.
SHARED = "generation_ray"
HELD = ExitStack()
# One test of four minutes, a third of the suite: begun late, it runs alone at the end.
LONGEST = "tests/cluster/studies/test_chaos.py"


@pytest.fixture(scope="module")
def generation_ray() -> None:
    """Hold the Ray session that all tests share which generate or probe on a small one."""
    import ray
    from tint_runs import tiny_ray

    if not ray.is_initialized():
        HELD.enter_context(tiny_ray())


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the shared Ray session with its group: every other test finds none."""
    if nextitem is None or group_of(nextitem) != group_of(item):
        HELD.close()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the groups that take longest, so that no process is left with one; skip what needs a GPU."""
    for_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if for_gpu and not _has_gpu():
        for item in for_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    for item in items:
        if group_of(item) == SHARED:
            item.add_marker(pytest.mark.xdist_group(SHARED))
    slow = Counter(group_of(item) for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (group_of(item) != LONGEST, -slow[group_of(item)], group_of(item)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Have `--dist loadgroup` keep the tests of a file together too, as they share what they prepare."""
    from xdist.scheduler import LoadGroupScheduling

    if config.getvalue("dist") != "loadgroup":
        return None

    class GroupOrFile(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            group = super()._split_scope(nodeid)
            return nodeid.partition("::")[0] if group == nodeid else group

    return GroupOrFile(config, log)


def group_of(item: pytest.Item) -> str:
    """Return the name of the tests that run in one process, one after the other: those of a file, or of a session."""
    shares = SHARED in getattr(item, "fixturenames", ())
    return SHARED if shares else str(item.path.relative_to(item.config.rootpath))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
