"""Under every fault a run ends with each planned sample once and the bytes of an undisturbed run."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from repository import PYTHONPATH
from tint_runs import tint_run, write_images

import cluster.studies.chaos.injection
from cluster.cli.main import main
from cluster.studies.chaos.faults import Fault
from cluster.studies.chaos.figures import chaos_figures
from cluster.studies.chaos.moments import KINDS, Kind, Moment, files_of, wait_for
from cluster.studies.chaos.study import Study
from cluster.studies.chaos.trial import Trial
from engine.errors import RunDirectoryError
from engine.runfile.run import RunFile


def slow_run(folder: Path) -> RunFile:
    """A run that takes long enough in each shard to be struck in the middle."""
    return tint_run(write_images(folder / "images"), tint={"sleep_s": 0.8})


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the drivers find the plugin stages of the tests."""
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)


@pytest.mark.slow
def test_under_faults_nothing_is_lost_doubled_or_changed(
    tmp_path: Path, plugins: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ACTOR_PAUSE_S", "NODE_PAUSE_S", "NOTICE_S", "LATE_S"):
        monkeypatch.setattr(cluster.studies.chaos.injection, name, 4.0)
    faults: list[Fault] = ["actor", "drain", "late", "storm"]
    study = Study(run=slow_run(tmp_path), folder=tmp_path / "study", faults=faults, num_kills=1)
    trials = list(study.trials())
    assert {trial.fault for trial in trials if trial.num_kills} == set(faults)
    kinds = ("lost", "duplicated", "different", "leftover")
    assert {trial.counts[kind] for trial in trials for kind in kinds} == {0}
    assert {trial.counts["samples"] for trial in trials} == {1 + 15 * 5}
    assert sum(trial.counts.get("nodes_used", 0) for trial in trials) >= 1
    # What is there is not done again, and other code or another seed is not mixed with it.
    assert [trial.to_json() for trial in study.trials()] == [trial.to_json() for trial in trials]
    with pytest.raises(RunDirectoryError, match="another run file, seed or state of the code"):
        list(replace(study, seed=1).trials())


LEFT = {
    "write": "shards/.000001.parquet.tmp~here~77~ab12cd34",
    "rename": "shards/000001.tar",
    "marker": "done/.000001.json.tmp~here~77~ab12cd34",
    "done": "done/000001.json",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_moment_of_writing_has_come_when_its_file_is_there(kind: Kind, tmp_path: Path) -> None:
    for name in ("shards/000000.tar", "done/000000.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    before, moment = files_of(tmp_path), Moment(kind=kind)
    assert not moment.has_come(before, before)
    (tmp_path / LEFT[kind]).write_bytes(b"")
    assert moment.has_come(before, files_of(tmp_path))
    assert not replace(moment, num_shards=1).has_come(before, files_of(tmp_path))


def test_a_moment_that_does_not_come_ends_with_the_run(tmp_path: Path) -> None:
    assert not wait_for(Moment(kind="write"), tmp_path, lambda: True)
    assert not wait_for(Moment(kind="any", after_s=60), tmp_path, lambda: True)
    assert wait_for(Moment(kind="any", after_s=0.01), tmp_path, lambda: False)


def test_half_of_the_moments_are_of_writing_and_none_is_late() -> None:
    moments = [Moment.draw(random.Random(seed), 30) for seed in range(400)]
    kinds = Counter(moment.kind for moment in moments)
    assert set(kinds) == {"any", *KINDS}
    assert 0.4 < kinds["any"] / 400 < 0.6
    assert max(moment.after_s for moment in moments) <= 30


CALM = Trial(
    fault="actor", kills={"task": 1, "editor": 3}, seconds=50, counts={"in_work": 2, "samples": 300}, examples=[]
)


def test_the_figures_sum_over_runs_and_name_what_is_missed() -> None:
    counts = {**CALM.counts, "lost": 3, "different": 1, "failures": 1}
    worse = replace(CALM, kills={"task": 2}, seconds=150, counts=counts)
    figures = {figure.name: figure for figure in chaos_figures([CALM, worse], baseline_s=20)}
    assert figures["actor.strikes"].value == 6
    assert (figures["actor.strikes.task"].value, figures["actor.strikes.editor"].value) == (3, 3)
    assert (figures["actor.lost"].value, figures["actor.lost"].n, figures["actor.lost"].met) == (3, 600, False)
    assert figures["actor.duplicated"].met
    assert figures["actor.goodput"].value == pytest.approx(0.2)
    assert figures["actor.shards_in_work"].value == pytest.approx(4 / 6)
    assert {name for name, figure in figures.items() if figure.met is False} == {
        "actor.lost",
        "actor.different",
        "actor.drivers_that_gave_up",
    }


def test_no_kills_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chaos", "configs/wardrobe.yaml", "--kills", "0", "--out", str(tmp_path)]) == 2
    assert "--kills 0: expected 1 or more" in capsys.readouterr().err
