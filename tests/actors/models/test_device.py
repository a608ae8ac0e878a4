"""What the process of an actor is set to."""

import os
import platform
import subprocess
import sys

import pytest
from repository import PYTHONPATH

FAULTS_OF_EACH_TIME = """
import resource
import torch
from actors.build import build_stage
from engine.runfile.stages import PluginConfig

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    made = [torch.ones(4 << 20) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

build_stage(PluginConfig(target="tiny_stages:Counting"), name="count", seed=0, offline=True)
print(*[faults() for _ in range(4)])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_memory_that_a_stage_frees_is_there_for_what_it_makes_next() -> None:
    paths = os.pathsep.join([PYTHONPATH, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", FAULTS_OF_EACH_TIME],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    first, *_, last = map(int, done.stdout.split())
    assert last < first / 10
