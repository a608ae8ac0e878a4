"""The losses of fine-tuning: cross-entropy, consistency between a source and its edit, and what keeps old knowledge."""

import torch
import torch.nn.functional as F
from torch import Tensor


def mixed_cross_entropy(logits: Tensor, labels: Tensor, partners: Tensor, shares: Tensor) -> Tensor:
    """Return the mean cross-entropy of images (n, num_classes) that are `shares` (n,) their own label's.

    The rest is the label of the image in row `partners` (n,). Yun et al. 2019, equation 1.
    """
    own = F.cross_entropy(logits, labels, reduction="none")
    other = F.cross_entropy(logits, labels[partners], reduction="none")
    return (shares * own + (1 - shares) * other).mean()


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean Jensen-Shannon divergence of two sets of logits (n, num_classes), in nats: 0 to log 2."""
    log_p, log_q = first.log_softmax(-1), second.log_softmax(-1)
    log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0))
    return 0.5 * (_kl(log_p, log_m) + _kl(log_q, log_m)).mean()


def soft_targets(labels: Tensor, known: Tensor, source: Tensor, edit: Tensor, share: float) -> Tensor:
    """Return targets (n, num_classes): the labels (n,), for rows `edit` (m,) in part what is known of their sources.

    `known` are the logits of the first rows, (num_real, num_classes), in which `source` (m,) are. Hinton et al. 2015.
    """
    targets = F.one_hot(labels, known.shape[-1]).float()
    targets[edit] = torch.lerp(targets[edit], known[source].softmax(-1), share)
    return targets


def distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean KL divergence of the student's answers from the teacher's (n, num_classes), in nats."""
    return _kl(teacher.log_softmax(-1), student.log_softmax(-1)).mean()


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)
