"""Another number of workers than a checkpoint was written by: the state is the same, and the steps go on."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from finetune_run import save_resnet, save_vit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parent.parent
WORKER = Path(__file__).parent / "resize_worker.py"


def work(num_workers: int, out: Path, *arguments: object) -> None:
    """Run the worker in so many processes."""
    out.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "WORLD_SIZE": str(num_workers), "LOCAL_SIZE": str(num_workers),
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), *map(str, arguments), str(out)],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(num_workers)
    ]
    assert [process.wait() for process in processes] == [0] * num_workers


def moments(folder: Path) -> list[torch.Tensor]:
    """Return what the optimizer keeps of a ZeRO-1 checkpoint, the parts of all workers put together."""
    paths = sorted((folder / "state").glob("zero_pp_rank_*_optim_states.pt"))
    # The checkpoints are our own.
    parts = [torch.load(path, weights_only=False)["optimizer_state_dict"]["base_optimizer_state"] for path in paths]
    groups = [[part["state"][number] for part in parts] for number in sorted(parts[0]["state"])]
    return [
        *(torch.cat([state[name] for state in group]) for group in groups for name in ("exp_avg", "exp_avg_sq")),
        *(torch.as_tensor(group[0]["step"]) for group in groups),
    ]


def differences(one: Path, other: Path) -> list[str]:
    """Return the names of the weights that differ in two folders."""
    first, second = (torch.load(folder / "weights.pt") for folder in (one, other))
    assert first.keys() == second.keys()
    return [name for name, value in first.items() if not torch.equal(value, second[name])]


def test_a_checkpoint_of_two_workers_is_the_same_state_for_one(tmp_path: Path) -> None:
    patient = save_resnet(tmp_path / "patient")
    work(2, tmp_path / "two", patient, 1, 3, "-")
    work(1, tmp_path / "one", patient, 1, 0, tmp_path / "two")
    assert differences(tmp_path / "two", tmp_path / "one") == []
    for before, after in zip(moments(tmp_path / "two"), moments(tmp_path / "one"), strict=True):
        # What one worker's part is longer than another's is filled with zeros.
        length = min(before.numel(), after.numel())
        assert torch.equal(before.flatten()[:length], after.flatten()[:length])
        assert not before.flatten()[length:].any()
        assert before.any()
    # It goes on, and what it writes is a checkpoint like any other.
    work(1, tmp_path / "on", patient, 1, 2, tmp_path / "one")
    assert differences(tmp_path / "one", tmp_path / "on")
    assert (tmp_path / "on" / "steps").read_text() == "5"


def test_zero_3_goes_on_with_more_workers_from_the_same_weights(tmp_path: Path) -> None:
    patient = save_vit(tmp_path / "patient")
    work(1, tmp_path / "one", patient, 3, 3, "-")
    work(2, tmp_path / "two", patient, 3, 0, tmp_path / "one")
    assert differences(tmp_path / "one", tmp_path / "two") == []
    work(2, tmp_path / "on", patient, 3, 1, tmp_path / "two")
    assert differences(tmp_path / "two", tmp_path / "on")
