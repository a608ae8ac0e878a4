"""A head of prototypes: an ensemble of distance classifiers, in the place of a model's last linear layer."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

# Beside the weights of the model that it belongs to, whose own head it replaces.
PROTOTYPES = "prototypes.safetensors"


class PrototypeHead(nn.Module):
    """Answer with the log of the mean probability of an ensemble whose members compare features with prototypes.

    A member's probabilities are the softmax of -|scale| times the distance between the centred, normalised features and
    its normalised prototypes. `prototypes` are (num_members, num_classes, dim), `scales` (num_members,).
    To et al., ICML 2025; distances of IsoMax+ (Macedo & Ludermir, arXiv 2105.14399).
    """

    def __init__(self, prototypes: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.prototypes, self.scales = nn.Parameter(prototypes), nn.Parameter(scales)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (n, num_classes), whose softmax is the mean probability, of features (n, dim)."""
        every = member_logits(normalised(features), self.prototypes, self.scales)
        return every.log_softmax(-1).logsumexp(0) - math.log(len(every))


def normalised(features: Tensor) -> Tensor:
    """Return features (n, dim) with mean 0 and length 1 in each row."""
    return F.normalize(features - features.mean(-1, keepdim=True), dim=-1)


def member_logits(features: Tensor, prototypes: Tensor, scales: Tensor) -> Tensor:
    """Return the logits (num_members, n, num_classes) of normalised features (n, dim)."""
    # Of unit vectors: |a - b|^2 = 2 - 2 ab, which is differentiable everywhere but at 0.
    similarity = torch.einsum("nd,mkd->mnk", features, F.normalize(prototypes, dim=-1))
    return -scales.abs()[:, None, None] * (2 - 2 * similarity).clamp(min=1e-8).sqrt()


def load_prototypes(folder: str) -> PrototypeHead | None:
    """Return the head of prototypes of a model's folder, None where it has none."""
    path = Path(folder, PROTOTYPES)
    if not path.is_file():
        return None
    tensors = load_file(path)
    return PrototypeHead(tensors["prototypes"], tensors["scales"])
