"""What a process of an actor is set to."""

import platform
import subprocess
import sys

import pytest

FAULTS_OF_EACH_TIME = """
import resource
import torch
from actors.device import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    made = [torch.ones(4 << 20) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
print(*[faults() for _ in range(4)])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_freed_memory_is_there_for_what_is_made_next() -> None:
    code = [sys.executable, "-c", FAULTS_OF_EACH_TIME]
    first, *_, last = map(int, subprocess.run(code, check=True, capture_output=True, text=True).stdout.split())
    assert last < first / 10
