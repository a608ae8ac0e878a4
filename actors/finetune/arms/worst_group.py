"""GroupDRO (Sagawa et al. 2020): groups with a higher loss count more."""

from collections.abc import Sequence

import torch
from torch import Tensor


class GroupWeights:
    """The weight of each group in the loss, updated with every batch; the same in all workers.

    Algorithm 1: weights are multiplied by exp(step size times the group's loss) and scaled to sum to 1.
    """

    def __init__(self, num_groups: int, step_size: float, device: torch.device) -> None:
        self._step_size = step_size
        self._weights = torch.full((num_groups,), 1 / num_groups, device=device)

    def to_list(self) -> list[float]:
        """Return the weights, which sum to 1, for a checkpoint."""
        found: list[float] = self._weights.tolist()
        return found

    def load(self, weights: Sequence[float]) -> None:
        """Go on from the weights of a checkpoint; groups that came since begin with the mean weight."""
        new = len(self._weights) - len(weights)
        mean = 1 / max(1, len(weights))
        found = torch.tensor([*weights, *[mean] * new], device=self._weights.device)
        self._weights = found / found.sum()

    def loss(self, losses: Tensor, groups: Tensor) -> Tensor:
        """Update the weights and return the weighted loss of a batch; all workers must call it.

        `losses` (n,) and `groups` (n,) are those of this worker's images. A group's loss is its mean over the batch of
        all workers; the weights of the groups that are in the batch are scaled to sum to 1.
        """
        sums = torch.zeros(2, len(self._weights), device=losses.device)
        sums[0].index_add_(0, groups, losses.detach())
        sums[1].index_add_(0, groups, torch.ones_like(losses))
        torch.distributed.all_reduce(sums)
        means = sums[0] / sums[1].clamp(min=1)
        self._weights = self._weights * (self._step_size * means).exp()
        self._weights = self._weights / self._weights.sum()
        present = sums[1] > 0
        shares = self._weights * present / (self._weights * present).sum()
        # Of this worker's images, which is a part of the batch: the mean over workers is the sum over groups.
        scale = shares / sums[1].clamp(min=1) * torch.distributed.get_world_size()
        return (scale[groups] * losses).sum()
