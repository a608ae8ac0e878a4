"""Deep feature reweighting (Kirichenko et al., ICLR 2023): the last layer fitted anew on groups in balance."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator

import torch

from actors.finetune.arms.features import Candidate, LabelledFeatures
from actors.finetune.arms.logistic import LinearHead, Scaler, fit_path, mean_head

NUM_SUBSETS = 10
# A group of n images counts as n^(1 - power): by its size, its square root, and as much as any other.
POWERS = (0.0, 0.5, 1.0)
WEIGHTED_STRENGTHS = (0.01, 0.1, 0.3, 1.0)


def dfr_heads(data: LabelledFeatures, num_classes: int, seed: int) -> Iterator[Candidate]:
    """Yield linear heads by logistic regression with an L1 penalty on standardised features, for each strength.

    First the authors': the mean of the heads of 10 subsets with as many images of every group as the smallest has
    (their code, DFR on the train split). Where that is one image, little is left of the rest: so also fitted on all
    images, weighted by the size of their group. Who asks chooses among them on validation images, as the authors do.
    """
    scaler = Scaler.of(data.features)
    features = scaler(data.features)
    sizes = Counter(data.groups)
    what = f"{len(data.groups):,} images of {len(sizes):,} groups, the smallest of {min(sizes.values()):,}"
    found: dict[float, list[LinearHead]] = defaultdict(list)
    for rows in balanced_subsets(data, NUM_SUBSETS, seed):
        for strength, head in fit_path(features[rows], data.labels[rows], num_classes):
            found[strength].append(head)
    for strength, heads in found.items():
        words = f"mean of {NUM_SUBSETS} subsets with {min(sizes.values()):,} of each group, C = {strength:g}, of {what}"
        yield Candidate(head=scaler.folded(mean_head(heads)), words=words)
    for power in POWERS:
        weights = features.new_tensor([sizes[group] ** -power for group in data.groups])
        weights *= len(weights) / weights.sum()
        for strength, head in fit_path(features, data.labels, num_classes, weights, WEIGHTED_STRENGTHS):
            words = f"a group of n images counts as n^{1 - power:g}, C = {strength:g}, of {what}"
            yield Candidate(head=scaler.folded(head), words=words)


def balanced_subsets(data: LabelledFeatures, count: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield the rows of so many random subsets that hold of every group as many images as the smallest has."""
    members: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for row, group in enumerate(data.groups):
        members[group].append(row)
    least = min(map(len, members.values()))
    order = random.Random(seed)
    for _ in range(count):
        yield torch.tensor([row for group in sorted(members) for row in order.sample(members[group], least)])
