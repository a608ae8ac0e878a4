"""The contrastive term: features of one class are drawn together, whatever else the images show."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Of the features' cosines, as in GRSSL (arXiv 2607.05850).
TEMPERATURE = 0.2


def supervised_contrast(features: Tensor, labels: Tensor) -> Tensor:
    """Return the supervised contrastive loss of features (n, dim) with labels (n,), in nats.

    The mean over images with another one of their class, 0 where there is none. Khosla et al. 2020, eq. 2. An edit has
    the label of its source, so the two are drawn together, and with every other ground of that class.
    """
    unit = F.normalize(features.flatten(1).float(), dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    similar = (unit @ unit.T / TEMPERATURE).masked_fill(itself, -torch.inf)
    log_p = similar.log_softmax(1).masked_fill(itself, 0.0)
    alike = (labels[:, None] == labels) & ~itself
    count = alike.sum(1)
    losses = -(log_p * alike).sum(1) / count.clamp(min=1)
    return losses.sum() / (count > 0).sum().clamp(min=1)
