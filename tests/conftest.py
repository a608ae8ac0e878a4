"""What every test shares: the order, and one thread a process where several run at once (`pytest -n 2`)."""

import os
from collections import Counter

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Read by torch when it is imported, and by what the tests start: threads of two tests wait for one another's cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the files that take longest, so that no process is left with one at the end; skip what needs a GPU."""
    for_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if for_gpu and not _has_gpu():
        for item in for_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
