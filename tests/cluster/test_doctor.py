"""The doctor: what it finds on this machine, whatever that is."""

import shutil

import pytest

from cluster.cli.main import main
from cluster.doctor import Check, examine


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_it_looks_at_all_that_a_run_needs() -> None:
    found = by_name(examine())
    assert {"python", "ray", "torch", "deepspeed", "cores", "disk", "object stores", "zoo/editor"} <= found.keys()
    assert {"attention: sdpa", "attention: flash", "attention: xformers"} <= found.keys()
    assert {"deepspeed: g++", "deepspeed: ninja"} <= found.keys()
    assert found["attention: sdpa"].state == "ok"
    assert all(check.remedy for check in found.values() if check.state == "failed")


def test_optional_things_that_lack_are_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "python" in capsys.readouterr().out


def test_a_missing_compiler_is_a_failure_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    assert main(["doctor"]) == 1
    assert "apt-get install g++" in capsys.readouterr().out
