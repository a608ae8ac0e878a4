"""GroupDRO's weights: by hand for one worker, and the same with two as with one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from actors.finetune.arms.worst_group import GroupWeights

LOSSES, GROUPS = torch.tensor([1.0, 3.0, 0.5, 0.5]), torch.tensor([0, 0, 2, 2])
CPU = torch.device("cpu")


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/alone", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def weigh(rank: int, size: int, meeting: str, out: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    weights = GroupWeights(3, 0.5, CPU)
    losses = LOSSES[rank::size].clone().requires_grad_()
    loss = weights.loss(losses, GROUPS[rank::size])
    loss.backward()
    torch.save((loss.detach(), losses.grad, weights.to_list()), f"{out}.{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_a_group_counts_by_the_exponential_of_its_losses() -> None:
    weights = GroupWeights(3, 0.5, CPU)
    loss = weights.loss(LOSSES, GROUPS)
    raw = torch.tensor([2.0, 0.0, 0.5]).mul(0.5).exp()
    torch.testing.assert_close(torch.tensor(weights.to_list()), raw / raw.sum())
    first, third = raw[0] / (raw[0] + raw[2]), raw[2] / (raw[0] + raw[2])
    torch.testing.assert_close(loss, first * 2.0 + third * 0.5)
    weights.loss(LOSSES, GROUPS)
    torch.testing.assert_close(torch.tensor(weights.to_list()), raw**2 / (raw**2).sum())


@pytest.mark.usefixtures("alone")
def test_weights_of_a_checkpoint_go_on_and_new_groups_begin_with_the_mean() -> None:
    weights = GroupWeights(4, 0.5, CPU)
    weights.load([0.6, 0.4])
    torch.testing.assert_close(torch.tensor(weights.to_list()), torch.tensor([0.3, 0.2, 0.25, 0.25]))
    weights.load([0.1, 0.2, 0.3, 0.4])
    torch.testing.assert_close(torch.tensor(weights.to_list()), torch.tensor([0.1, 0.2, 0.3, 0.4]))


def test_two_workers_weigh_as_one_does(tmp_path: Path) -> None:
    found = {}
    for size in (1, 2):
        out = str(tmp_path / f"out{size}")
        multiprocessing.spawn(weigh, (size, str(tmp_path / f"meet{size}"), out), size)  # type: ignore[no-untyped-call]
        found[size] = [torch.load(f"{out}.{rank}") for rank in range(size)]
    ((loss, gradient, weights),) = found[1]
    torch.testing.assert_close(torch.stack([each[0] for each in found[2]]).mean(), loss)
    for rank, each in enumerate(found[2]):
        torch.testing.assert_close(torch.tensor(each[2]), torch.tensor(weights))
        # DDP takes the mean of the workers' gradients.
        torch.testing.assert_close(each[1] / 2, gradient[rank::2])
