"""Training that follows the generation: it starts before the last shard is done, with the same guards."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from finetune_run import (
    commit_planned,
    plant,
    run_file,
    save_images,
    save_resnet,
    source_of_test_split,
    training_session,
)
from repository import PYTHONPATH
from waiting import wait_until

from cluster.cli.main import main
from cluster.phases import classifiers
from cluster.phases.follow import follow_run
from cluster.phases.reinforce import reinforce_run
from engine.errors import LeakError, RunError, RunFileError
from engine.plan.plan import make_plan
from engine.run.directory import RunDirectory
from engine.runfile.load import dump_run_file
from engine.runfile.reinforce import ReinforceConfig
from engine.runfile.run import RunFile
from engine.training.recipe import followed_first, steps_allowed, steps_between_looks

pytestmark = pytest.mark.timeout(900)
STEPS = 16
# A busy machine of two cores needs minutes for what takes seconds alone.
WAIT_S = 800


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("follow")
    save_images(folder / "images")
    save_resnet(folder / "patient")
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    # Room for two training workers and, beside them, a generation.
    with training_session(3):
        yield


def begin(folder: Path, name: str, shards: int, **settings: object) -> tuple[RunFile, RunDirectory]:
    """Return a run of which the first shards are done."""
    # Else a test whose thread has failed would wait for an hour.
    settings = {"follow_timeout_s": 600, **settings}
    run = run_file(folder / "images", folder / "patient", num_steps=STEPS, **settings)
    rundir = RunDirectory.create(str(folder / name), run, make_plan(run))
    assert rundir.info.num_shards == 5
    for index in range(shards):
        commit_planned(rundir, run, index)
    return run, rundir


def lines(rundir: RunDirectory) -> list[dict]:
    found = list(rundir.storage.local_path("checkpoints").glob("*/history.json"))
    return json.loads(found[0].read_text()) if found else []


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Do something in a thread while the training runs; what fails there fails the test."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # handed to the test
            failures.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert not failures, failures


def test_half_of_the_steps_keep_pace_with_the_shards() -> None:
    config = ReinforceConfig(num_steps=300, eval_every=100)
    assert [steps_allowed(config, done, 10) for done in (0, 1, 5, 9, 10)] == [0, 15, 75, 135, 300]
    assert steps_between_looks(config) == 37
    assert steps_between_looks(ReinforceConfig(num_steps=1)) == 1


def test_the_arm_that_follows_has_edits() -> None:
    def first(arms: list[str]) -> tuple[str, ...]:
        return followed_first(ReinforceConfig.model_validate({"arms": arms}))

    assert first(["real_only", "random_edits", "reinforced"]) == ("reinforced", "real_only", "random_edits")
    assert first(["real_only", "random_edits"]) == ("random_edits", "real_only")
    with pytest.raises(RunFileError, match="no arm with edits"):
        first(["real_only", "oracle"])


@pytest.mark.slow
def test_where_the_generation_died_it_says_so_and_goes_on_later_until_a_leak_comes(folder: Path, cluster: None) -> None:
    run, rundir = begin(folder, "dead", shards=3, follow_timeout_s=4, arms=["reinforced"])
    with pytest.raises(RunError, match=r"no further shard was done for 4 s, 3 of 5 are: look whether"):
        reinforce_run(run, rundir, follow=True)
    before = lines(rundir)
    assert [line["step"] for line in before] == [2, 4]
    commit_planned(rundir, run, 3)
    leaked = source_of_test_split(run, rundir)

    def generate() -> None:
        wait_until(lambda: len(lines(rundir)) > len(before), WAIT_S)
        # Made elsewhere and moved in, as the marker comes last.
        other = RunDirectory.create(str(folder / "leaking"), run, make_plan(run))
        commit_planned(other, run, 4)
        plant(other, 4, leaked)
        for name in ("shards/000004.tar", "shards/000004.parquet", "done/000004.json"):
            rundir.storage.write(name, other.storage.read(name))

    changes = {"follow_timeout_s": 600, "num_workers": 2, "max_failures": 3}
    patient = run.model_copy(update={"reinforce": run.reinforce.model_copy(update=changes)})
    with (
        meanwhile(generate),
        pytest.raises(LeakError, match=f"shard 000004, sample {leaked.key}: its source is of the test split"),
    ):
        reinforce_run(patient, rundir, follow=True)
    # The times can only come from the checkpoint.
    assert [line["step"] for line in lines(rundir)] == [2, 4, 6]
    assert [line["images_per_second"] for line in lines(rundir)[:2]] == [line["images_per_second"] for line in before]


@pytest.mark.slow
def test_the_command_trains_while_another_process_generates_on_the_same_cluster(
    folder: Path, cluster: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    # Classifiers are asked in this process, where they take less time to start than as actors.
    monkeypatch.setattr(classifiers, "in_session", lambda: False)
    go_on = folder / "go_on"
    placement = {"num_cpus": 0.25}
    tint = {"kind": "plugin", "target": "tiny_stages:Tint", "options": {"wait_for": str(go_on)}, "placement": placement}
    judge = {"kind": "plugin", "target": "tiny_stages:Judge", "options": {"min_brightness": 0}, "placement": placement}
    settings = {"num_steps": STEPS, "follow_timeout_s": 600}
    content = run_file(folder / "images", folder / "patient", **settings).model_dump()
    run = RunFile.model_validate(content | {"stages": {"tint": tint, "judge": judge}})
    rundir = RunDirectory.create(str(folder / "both"), run, make_plan(run))
    (folder / "both.yaml").write_text(dump_run_file(run))
    address = ray.get_runtime_context().gcs_address
    command = ["generate", str(folder / "both.yaml"), "--out", rundir.storage.root, "--address", address]
    generating = subprocess.Popen(
        [sys.executable, "-c", "import sys; from cluster.cli.main import main; sys.exit(main(sys.argv[1:]))", *command],
        env=os.environ | {"PYTHONPATH": PYTHONPATH},
    )

    def let_it_end() -> None:
        wait_until(lambda: len(lines(rundir)) > 0, WAIT_S)
        go_on.touch()
        assert generating.wait(WAIT_S) == 0

    with meanwhile(let_it_end):
        assert main(["reinforce", rundir.storage.root, "--follow"]) == 0
    assert capsys.readouterr().out.splitlines()[0] in ("ship", "do not ship")
    assert rundir.pending() == []
    assert rundir.exists("evaluation.json")
    result = rundir.read_json("reinforce.json")
    assert list(result["arms"]) == ["patient", "real_only", "reinforced"]
    follow = result["follow"]
    assert follow["reproducible"] is False
    first = follow["steps"][0]
    assert 0 < first["num_shards"] < first["of_shards"] == rundir.info.num_shards
    early = sum(line["steps"] for line in follow["steps"])
    assert 0 < early <= STEPS / 2
    assert early + follow["steps_on_all"] == STEPS
    # Nothing is chosen before all is there to choose on.
    assert result["arms"]["reinforced"]["best_step"] > early
    for arm in ("real_only", "reinforced"):
        assert result["arms"][arm]["history"][-1]["step"] == STEPS
        assert "validation_edits_accuracy" in result["arms"][arm]
        assert rundir.exists(f"models/{arm}/model.safetensors")
    assert result["images"]["counterfactuals"] == sum(
        sample.role == "counterfactual" and sample.split == "train"
        for index in rundir.done()
        for sample in rundir.read_shard(index)
    )
    assert reinforce_run(run, rundir, follow=True) == result


def test_a_generation_that_never_starts_is_said(folder: Path) -> None:
    run, rundir = begin(folder, "never", shards=0, follow_timeout_s=0.5)
    with pytest.raises(RunError, match=r"no further shard was done for 0\.5 s, 0 of 5 are"):
        follow_run(run, rundir, rundir.plan())
