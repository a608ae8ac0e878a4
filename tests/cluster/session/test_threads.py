"""Threads of a network that share their cores with another process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.session.threads import SPINS, share_cores

# After the import of torch, whose OpenMP then believes that two threads have two cores.
ONE_CORE_FOR_TWO = """
import os, sys, time
if sys.argv[1] == "shared":
    from cluster.session.threads import share_cores
    share_cores()
import torch
torch.set_num_threads(2)
values = torch.ones(1 << 16)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
start = time.perf_counter()
for _ in range(200):
    values.add_(1)
print(time.perf_counter() - start)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="GNU's OpenMP waits so on two cores and more"
)
def test_a_thread_that_waits_gives_its_core_away(tmp_path: Path) -> None:
    program = tmp_path / "one_core_for_two.py"
    program.write_text(ONE_CORE_FOR_TWO)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}

    def seconds(way: str) -> float:
        done = subprocess.run([sys.executable, str(program), way], env=kept, capture_output=True, check=True, text=True)
        return float(done.stdout)

    assert seconds("shared") < seconds("as it is") / 3


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    share_cores()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    share_cores()
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    share_cores()
    assert os.environ["GOMP_SPINCOUNT"] == SPINS
