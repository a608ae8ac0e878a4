"""Why nothing moves is said in words, and whether the run waits on is a matter of its limits."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tint_runs import tint_run, write_images

from cluster.monitor.activity import Activity, StageActivity
from cluster.monitor.watchdog import Watchdog
from cluster.phases.pipeline import open_run, run_phases
from cluster.session.placement import Need, Resources
from cluster.session.session import SessionConfig
from engine.errors import RunError
from engine.run.attempts import Attempts, Note
from engine.runfile.run import LimitsConfig, RunFile
from engine.storage.storage import Storage

NEED = Need(path="stages.editor", num_cpus=1, num_gpus=1, replicas=(2, 4))
IDLE = StageActivity(name="editor+verifier", done=3, working=0, waiting=0, actors=2, starting=0)
NONE_FREE = Resources(num_cpus=4, num_gpus=2, free_cpus=1, free_gpus=0)


def found(
    storage: Storage,
    activity: Activity,
    idle_s: float,
    have: Resources = NONE_FREE,
    **limits: object,
) -> tuple[str, bool]:
    """What is said after `idle_s` seconds of the same."""
    watchdog = Watchdog(LimitsConfig.model_validate(limits), [NEED], storage, lambda: activity, lambda: have)
    watchdog.look(20)
    finding = watchdog.look(idle_s)
    return ("", False) if finding is None else (finding.text, finding.ends)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def test_a_minute_without_a_shard_is_no_news(storage: Storage) -> None:
    assert found(storage, Activity(stages=[IDLE]), 59) == ("", False)


def test_a_stage_at_work_is_named_with_its_shard_and_never_ends_the_run(storage: Storage) -> None:
    Attempts(storage=storage, where="editor+verifier").begin(12)
    time.sleep(0.01)
    Attempts(storage=storage, where="captioner").begin(14)
    text, ends = found(storage, Activity(stages=[replace(IDLE, working=1)]), 9999, stalled_s=1, nodes_s=1)
    assert "editor+verifier has shard 12 at work for 0 s" in text
    assert not ends


def test_a_sample_that_is_worked_on_alone_is_named(storage: Storage) -> None:
    Attempts(storage=storage, where="editor").narrow(3, Note(begun=3), "sample n03_cf01")
    text, _ = found(storage, Activity(stages=[replace(IDLE, working=1)]), 100)
    assert "editor has sample n03_cf01 of shard 3, alone, at work for 0 s" in text


def test_waiting_for_nodes_is_no_failure_for_as_long_as_it_takes(storage: Storage) -> None:
    waiting = Activity(stages=[replace(IDLE, actors=0, starting=4)])
    text, ends = found(storage, waiting, 36_000, stalled_s=60)
    assert "10 h 0 min: actors wait for GPUs: the cluster has 2, 0 of them free" in text
    assert not ends
    text, ends = found(storage, waiting, 36_000, nodes_s=7200)
    assert "longer than limits.nodes_s allows" in text
    assert ends


def test_tasks_without_a_core_wait_for_one_and_not_for_the_storage(storage: Storage) -> None:
    full = replace(NONE_FREE, free_cpus=0)
    text, ends = found(storage, Activity(stages=[IDLE], reads=2), 36_000, full, stalled_s=60)
    assert "the tasks that read and write shards wait for CPU cores: the cluster has 4, 0 of them free" in text
    assert not ends


def test_actors_that_have_their_resources_are_starting(storage: Storage) -> None:
    loading = Activity(stages=[replace(IDLE, actors=0, starting=2)])
    text, ends = found(storage, loading, 36_000, stalled_s=60, nodes_s=60)
    assert "the actors of editor+verifier are starting" in text
    assert not ends


@pytest.mark.parametrize(
    ("activity", "words"),
    [
        (Activity(stages=[IDLE], writes=1), "0 shards are being read, 1 written to"),
        (Activity(stages=[IDLE]), "no stage is processing a shard"),
    ],
)
def test_a_stall_ends_the_run_or_warns_as_the_run_file_says(storage: Storage, activity: Activity, words: str) -> None:
    text, ends = found(storage, activity, 100, stalled_s=1800)
    assert words in text
    assert "The run ends if that lasts 28 min 40 s longer" in text
    assert not ends
    text, ends = found(storage, activity, 2000, stalled_s=1800)
    assert "longer than limits.stalled_s allows" in text
    assert ends
    assert not found(storage, activity, 2000, stalled_s=1800, on_stall="warn")[1]


def test_a_long_work_does_not_count_as_the_beginning_of_a_stall(storage: Storage) -> None:
    seen = [Activity(stages=[replace(IDLE, working=1)])]
    watchdog = Watchdog(LimitsConfig(stalled_s=60), [NEED], storage, lambda: seen[-1], lambda: NONE_FREE)
    for idle_s in range(0, 4000, 10):
        watchdog.look(idle_s)
    # Its shard is being committed, most likely.
    seen.append(Activity(stages=[IDLE], writes=1))
    finding = watchdog.look(4020)
    assert finding is not None
    assert "written to" in finding.text
    assert not finding.ends
    finding = watchdog.look(4090)
    assert finding is not None
    assert finding.ends
    # A shard was finished.
    assert watchdog.look(3) is None


@pytest.fixture
def poor_cluster() -> Iterator[str]:
    """A cluster whose only node has no GPU."""
    from cluster.studies.chaos.nodes import own_ray

    with own_ray():
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        yield str(cluster.address)
        cluster.shutdown()


@pytest.mark.slow
def test_a_run_that_waits_for_a_gpu_longer_than_it_may_ends_with_the_reason(poor_cluster: str, tmp_path: Path) -> None:
    placement = {"replicas": [1, 1], "num_cpus": 0.5, "num_gpus": 1}
    stages = {"tint": {"kind": "plugin", "target": "tiny_stages:Tint", "placement": placement}}
    run = tint_run(write_images(tmp_path / "images"), stages=stages)
    run = RunFile.model_validate(run.model_dump() | {"limits": {"nodes_s": 3}})
    rundir, plan = open_run(run, str(tmp_path / "run"))
    session = SessionConfig(address=poor_cluster, autoscaling=True)
    with pytest.raises(RunError, match=r"actors wait for GPUs: the cluster has 0, 0 of them free\..*limits\.nodes_s"):
        run_phases(("generate",), run, rundir, plan, session)
    assert rundir.done() == []
