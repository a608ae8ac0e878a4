"""Diverse prototypical ensembles (To et al., ICML 2025): prototypes in the head's place, each on its own subset."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from actors.classifier.prototypes import PrototypeHead, member_logits, normalised
from actors.finetune.arms.dfr import balanced_subsets
from actors.finetune.arms.features import Candidate, LabelledFeatures

# Of the authors' code (train_pe.sh): members, epochs, batches, SGD with momentum .9, and the weights of the terms.
NUM_MEMBERS = 16
NUM_EPOCHS = 20
BATCH_SIZE = 256
# Of subsets smaller than theirs there are more epochs, so that a member does not stay where it began.
MIN_STEPS = 240
MOMENTUM = 0.9
ENTROPIC_SCALE = 30.0
LENGTH_PENALTY = 10.0
# Their 1e5 over the 2,047 that their mean divides by: for fewer features it would outweigh the classes.
SIMILARITY_PENALTY = 1e5 / 2047
PENALTY_DECAY = 0.05
FIRST_DEVIATION = 0.01
LEARNING_RATES = (1e-3, 1e-2)


def dpe_heads(data: LabelledFeatures, num_classes: int, seed: int) -> Iterator[Candidate]:
    """Yield ensembles of prototypes, fitted on subsets in balance over classes, then over groups."""
    classes = LabelledFeatures(
        features=data.features, labels=data.labels, groups=[(str(label),) for label in data.labels.tolist()]
    )
    for name, balanced in (("classes", classes), ("groups of class and attributes", data)):
        subsets = list(balanced_subsets(balanced, NUM_MEMBERS, seed))
        for rate in LEARNING_RATES:
            words = f"{NUM_MEMBERS} members, each on {len(subsets[0]):,} images in balance over {name}, rate {rate:g}"
            yield Candidate(head=fit_ensemble(data, num_classes, subsets, rate, seed), words=words)


def fit_ensemble(
    data: LabelledFeatures, num_classes: int, subsets: list[Tensor], rate: float, seed: int
) -> PrototypeHead:
    """Return an ensemble whose members are fitted one after another, each unlike those before it.

    The loss of a member is the cross-entropy of its logits times 30, plus the mean squared length of its prototypes,
    plus the inter-prototype similarity: the mean over classes of |sum of p_j p_i| / num_members between a
    prototype p_i and those p_j of its class before it (their equation of L_IPS), its weight falling with the members.
    """
    generator = torch.Generator().manual_seed(seed)
    features = normalised(data.features)
    dim = features.shape[1]
    members, scales = features.new_empty(0, num_classes, dim), features.new_empty(0)
    for number, rows in enumerate(subsets):
        first = FIRST_DEVIATION * torch.randn(1, num_classes, dim, generator=generator)
        prototypes = first.to(features.device).requires_grad_()
        scale = features.new_ones(1).requires_grad_()
        optimizer = torch.optim.SGD([prototypes, scale], lr=rate, momentum=MOMENTUM)
        penalty = SIMILARITY_PENALTY / (1 + PENALTY_DECAY * max(0, number - 1)) / (number + 1)
        before = members.sum(0)
        for _ in range(max(NUM_EPOCHS, MIN_STEPS * BATCH_SIZE // len(rows))):
            for batch in torch.split(rows[torch.randperm(len(rows), generator=generator)], BATCH_SIZE):
                (logits,) = member_logits(features[batch], prototypes, scale)
                loss = F.cross_entropy(ENTROPIC_SCALE * logits, data.labels[batch])
                loss = loss + LENGTH_PENALTY * prototypes.square().sum(-1).mean()
                loss = loss + penalty * (prototypes[0] * before).sum(-1).abs().mean()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        members, scales = torch.cat([members, prototypes.detach()]), torch.cat([scales, scale.detach()])
    return PrototypeHead(members, scales).requires_grad_(False)
