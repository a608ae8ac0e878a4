"""What a run asks for against what there is, before anything starts."""

from pathlib import Path

import pytest
from tint_runs import tint_run

from cluster.session.placement import (
    Capacity,
    Need,
    Node,
    check_placement,
    generate_needs,
    local_cpus,
    probe_needs,
    reinforce_needs,
)
from engine.errors import PlacementError
from engine.runfile.run import RunFile


def need(path: str = "stages.editor", cpus: float = 1, gpus: float = 0, low: int = 1, high: int = 1) -> Need:
    return Need(path=path, num_cpus=cpus, num_gpus=gpus, replicas=(low, high))


def machine(cpus: float = 4, gpus: float = 0) -> Capacity:
    return Capacity(nodes=(Node(num_cpus=cpus, num_gpus=gpus),), local=True)


def cluster(*nodes: tuple[float, float]) -> Capacity:
    return Capacity(nodes=tuple(Node(num_cpus=cpus, num_gpus=gpus) for cpus, gpus in nodes), local=False)


def message(phases: list[list[Need]], capacity: Capacity) -> str:
    with pytest.raises(PlacementError) as caught:
        check_placement(phases, capacity)
    return str(caught.value)


def test_a_gpu_that_is_not_there_is_named_with_what_to_do() -> None:
    text = message([[need(gpus=1)]], machine())
    assert text == (
        "stages.editor asks for 1 GPU, this machine has 0: run on the CPU with "
        "--set stages.editor.placement.num_gpus=0 --set stages.editor.placement.device=auto, "
        "or join a cluster with --address"
    )


def test_all_pools_that_lack_gpus_are_one_message() -> None:
    phases = [[need("stages.captioner", gpus=0.5), need(gpus=1, low=2)], [need("probe", gpus=1)]]
    assert message(phases, machine()) == (
        "stages.captioner asks for 0.5 GPUs, stages.editor asks for 1 GPU, probe asks for 1 GPU, this machine has 0: "
        "run on the CPU with placement: {num_gpus: 0} in each, or join a cluster with --address"
    )
    assert message(phases, machine(gpus=1)).startswith("stages.editor asks for 2 GPUs, this machine has 1, 0.5 of them")


def test_fractions_of_gpus_add_up() -> None:
    thirds = [need("stages.captioner", gpus=0.25), need("stages.editor", gpus=0.25, low=3)]
    check_placement([thirds], machine(gpus=1))
    text = message([[*thirds, need("stages.verifier", gpus=0.5)]], machine(gpus=1))
    assert "stages.verifier asks for 0.5 GPUs, this machine has 1, 1 of them held by the stages before" in text
    assert "lower stages.verifier.placement.num_gpus" in text


def test_phases_follow_each_other_and_do_not_add_up() -> None:
    check_placement([[need(gpus=1)], [need("probe", gpus=1)], [need("reinforce", gpus=1)]], machine(gpus=1))


def test_one_actor_must_fit_on_one_machine() -> None:
    assert "stages.editor asks for 2 GPUs, the cluster has 1" in message([[need(gpus=2)]], cluster((8, 1), (8, 1)))
    text = message([[need(cpus=16)]], cluster((8, 0), (8, 0)))
    assert "one actor of stages.editor asks for 16 CPU cores, the largest machine has 8" in text


def test_only_the_smallest_pool_must_fit() -> None:
    check_placement([[need(gpus=1, low=1, high=64)]], cluster((8, 1)))


def test_a_cluster_needs_cores_for_all_pools_and_for_reading() -> None:
    pools = [need("stages.a"), need("stages.b")]
    check_placement([pools], cluster((3, 0)))
    text = message([pools], cluster((2, 0)))
    assert "stages.a, stages.b and the reading and writing of shards ask for 3 CPU cores together" in text
    assert "--autoscaling" in text


def test_a_local_session_shares_its_cores() -> None:
    pools = [need("stages.a"), need("stages.b"), need("stages.c", low=2)]
    check_placement([pools], machine(cpus=2))
    assert local_cpus([pools], cores=2) == 5
    assert local_cpus([pools], cores=16) == 16


def test_workers_of_the_fine_tuning_start_together(tmp_path: Path) -> None:
    run = RunFile.model_validate(
        tint_run(tmp_path).model_dump()
        | {"reinforce": {"num_workers": 2, "placement": {"num_gpus": 1}}, "probe": {"callable": "a:b"}}
    )
    text = message([reinforce_needs(run.reinforce)], machine(gpus=1))
    assert text.startswith("reinforce asks for 2 GPUs, this machine has 1: lower reinforce.placement.num_gpus")
    assert "reinforce.num_workers" in text


def test_a_group_is_placed_as_its_first_stage(tmp_path: Path) -> None:
    (only,) = generate_needs(tint_run(tmp_path, replicas=(2, 3), grouped=True))
    assert (only.path, only.replicas) == ("stages.tint", (2, 3))
    assert [each.path for each in generate_needs(tint_run(tmp_path))] == ["stages.tint", "stages.judge"]
    assert [each.path for each in probe_needs(tint_run(tmp_path).probe)] == ["probe"]
