"""Arms that are fitted on frozen features, under Ray Train with one worker and with two."""

from pathlib import Path

import pytest
from finetune_run import committed_run, run_file, save_images, save_resnet, training_session

from cluster.phases import reinforce
from cluster.phases.reinforce import reinforce_run

pytestmark = pytest.mark.timeout(900)


@pytest.mark.slow
def test_two_workers_fit_what_one_does_and_none_fits_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save_images(tmp_path / "images")
    save_resnet(tmp_path / "patient")
    results = []
    with training_session(2), caplog.at_level("INFO", logger="cluster"):
        for num_workers in (1, 2):
            run = run_file(
                tmp_path / "images", tmp_path / "patient", arms=["dfr", "projection", "random_edits"],
                ships="random_edits", num_workers=num_workers,
            )  # fmt: skip
            rundir = committed_run(tmp_path / f"run{num_workers}", run)
            results.append(reinforce_run(run, rundir))
    one, two = results
    assert one["linear_probe"] == two["linear_probe"]
    assert one["linear_probe"]["sentence"] in caplog.text
    for name in ("dfr", "projection"):
        assert one["arms"][name]["fitted"] == two["arms"][name]["fitted"]
        assert one["arms"][name]["validation_accuracy"] == two["arms"][name]["validation_accuracy"]
    assert [line["step"] for line in two["arms"]["random_edits"]["history"]] == [4, 8]
    monkeypatch.setattr(reinforce, "_fit", None)
    assert reinforce_run(run, rundir) == two
