"""Terms of the loss of arms with edits: consistency of a source and its edit, and two ways to keep old knowledge."""

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.runfile.reinforce import ReinforceConfig


def edit_terms(logits: Tensor, pairs: Tensor, teacher: Tensor | None, config: ReinforceConfig) -> Tensor:
    """Return the sum of the terms to which the run file gives a weight, beside the cross-entropy.

    `pairs` (num_pairs, 2) are the rows of a source and of its edit; `teacher` are the base classifier's logits of the
    first rows, which are the real images, None where no term needs them.
    """
    terms = logits.new_zeros(())
    if config.consistency and len(pairs):
        terms = terms + config.consistency * jensen_shannon(logits[pairs[:, 0]], logits[pairs[:, 1]])
    if config.distillation and teacher is not None:
        terms = terms + config.distillation * distillation(logits[: len(teacher)], teacher)
    return terms


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean Jensen-Shannon divergence of two sets of logits (n, num_classes), in nats: 0 to log 2."""
    log_p, log_q = first.log_softmax(-1), second.log_softmax(-1)
    log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0))
    return 0.5 * (_kl(log_p, log_m) + _kl(log_q, log_m)).mean()


def soft_targets(labels: Tensor, teacher: Tensor, source: Tensor, edit: Tensor, share: float) -> Tensor:
    """Return targets (n, num_classes): the labels (n,); in rows `edit` (m,), `share` of it the teacher's answer.

    `teacher` are the logits of the first rows, (num_real, num_classes), in which `source` (m,) are. Hinton et al. 2015.
    """
    targets = F.one_hot(labels, teacher.shape[-1]).float()
    targets[edit] = torch.lerp(targets[edit], teacher[source].softmax(-1), share)
    return targets


def distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean KL divergence of the student's answers from the teacher's (n, num_classes), in nats."""
    return _kl(teacher.log_softmax(-1), student.log_softmax(-1)).mean()


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)
