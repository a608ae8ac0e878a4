"""Another number of workers than a checkpoint was written by: the state is the same, and the steps go on."""

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from finetune_run import save_resnet, save_vit
from repository import PYTHONPATH
from waiting import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PROCESSES = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    """Have one process import DeepSpeed, which takes longer than the steps, and fork all workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PYTHONPATH)
        patch.setenv("DS_ACCELERATOR", "cpu")
        patch.setenv("OMP_NUM_THREADS", "1")
        PROCESSES.set_forkserver_preload(["resize_worker", "deepspeed.runtime.zero.muon.original_muon", "diffusers"])
        yield


def be_worker(*arguments: object) -> None:
    # Not at the top: this process has no need of DeepSpeed.
    import resize_worker

    from engine.errors import RunDirectoryError

    try:
        resize_worker.main(*arguments)
    except RunDirectoryError as error:
        # The server's own stderr is not the one of the test that waits for this process.
        Path(str(arguments[-1]), "refused").write_text(str(error))
        raise


def work(num_workers: int, out: Path, *arguments: object, exit_code: int = 0) -> None:
    """Run the worker in so many processes; all must end with `exit_code`."""
    out.mkdir()
    port = free_port()
    processes = [
        PROCESSES.Process(target=be_worker, args=(rank, num_workers, port, *map(str, arguments), str(out)))
        for rank in range(num_workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [exit_code] * num_workers


def moments(folder: Path) -> list[torch.Tensor]:
    """Return what the optimizer keeps of a checkpoint, the parts of all workers put together."""
    # The checkpoints are our own.
    if paths := sorted((folder / "state").glob("zero_pp_rank_*_optim_states.pt")):
        parts = [torch.load(path, weights_only=False)["optimizer_state_dict"]["base_optimizer_state"] for path in paths]
    else:  # ZeRO 0: nothing is cut, and the first worker writes it.
        parts = [torch.load(folder / "state" / "mp_rank_00_model_states.pt", weights_only=False)["optimizer"]]
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


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_checkpoint_of_two_workers_is_the_same_state_for_one(tmp_path: Path, stage: int) -> None:
    patient = save_resnet(tmp_path / "patient")
    work(2, tmp_path / "two", patient, stage, 3, "-")
    work(1, tmp_path / "one", patient, stage, 0, tmp_path / "two")
    assert differences(tmp_path / "two", tmp_path / "one") == []
    for before, after in zip(moments(tmp_path / "two"), moments(tmp_path / "one"), strict=True):
        # What one worker's part is longer than another's is filled with zeros.
        length = min(before.numel(), after.numel())
        assert torch.equal(before.flatten()[:length], after.flatten()[:length])
        assert not before.flatten()[length:].any()
        assert before.any()
    # It goes on, and what it writes is a checkpoint like any other.
    work(1, tmp_path / "on", patient, stage, 2, tmp_path / "one")
    assert differences(tmp_path / "one", tmp_path / "on")
    assert (tmp_path / "on" / "steps").read_text() == "5"


def test_zero_3_goes_on_with_more_workers_from_the_same_weights(tmp_path: Path) -> None:
    patient = save_vit(tmp_path / "patient")
    work(1, tmp_path / "one", patient, 3, 3, "-")
    work(2, tmp_path / "two", patient, 3, 0, tmp_path / "one")
    assert differences(tmp_path / "one", tmp_path / "two") == []
    work(2, tmp_path / "on", patient, 3, 1, tmp_path / "two")
    assert differences(tmp_path / "two", tmp_path / "on")


class Evil:
    """Touch a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("file", ["zero_pp_rank_0_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt"])
def test_a_checkpoint_that_holds_code_is_refused_and_nothing_runs(tmp_path: Path, file: str, num_workers: int) -> None:
    """One worker goes on by DeepSpeed's own loading, two by its conversion."""
    patient = save_resnet(tmp_path / "patient")
    work(1, tmp_path / "saved", patient, 1, 2, "-")
    path = tmp_path / "saved" / "state" / file
    torch.save(torch.load(path, weights_only=False) | {"more": Evil(tmp_path / "ran")}, path)
    work(num_workers, tmp_path / "on", patient, 1, 1, tmp_path / "saved", exit_code=1)
    assert "unsupported GLOBAL posix.mkdir" in (tmp_path / "on" / "refused").read_text()
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()
