"""Threads of a network that share their cores with another process."""

import os
import subprocess
import sys

import pytest
from repository import ROOT

from cluster.session.threads import SPINS, share_cores

SHOW = """
from cluster.session.threads import share_cores
share_cores()
import torch
"""


def test_torchs_openmp_takes_the_setting() -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    # The library prints its settings when it is loaded.
    shown = {**kept, "OMP_DISPLAY_ENV": "VERBOSE"}
    done = subprocess.run([sys.executable, "-c", SHOW], env=shown, cwd=ROOT, capture_output=True, check=True, text=True)
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("another OpenMP than GNU's")
    assert f"GOMP_SPINCOUNT = '{SPINS}'" in done.stderr


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
