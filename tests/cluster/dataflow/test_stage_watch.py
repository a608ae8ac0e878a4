"""The watch of the stages, where Ray Data's scheduler is another one than is known."""

import pytest

from cluster.dataflow.stage_watch import StageWatch, dataflow_activity
from cluster.monitor.activity import Activity


def test_a_scheduler_with_other_names_is_told_once_and_ends_no_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(StageWatch, "latest", Activity())
    monkeypatch.setattr(StageWatch, "is_blind", False)
    for _ in range(2):
        StageWatch().on_execution_step(object())
    assert dataflow_activity() == Activity()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "'_topology'" in line
