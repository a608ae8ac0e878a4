"""Deep feature reweighting on features of which one tells the class and another the habit."""

from collections import Counter

import torch

from actors.finetune.arms.dfr import NUM_SUBSETS, POWERS, WEIGHTED_STRENGTHS, balanced_subsets, dfr_heads
from actors.finetune.arms.features import LabelledFeatures
from actors.finetune.arms.logistic import STRENGTHS


def world(usual: int, rare: int) -> LabelledFeatures:
    """Two classes: a noisy feature of the class, and a clear one of the ground, which in `rare` images is the other."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat(usual + rare)
    is_rare = torch.arange(usual + rare).repeat_interleave(2) >= usual
    ground = torch.where(is_rare, 1 - labels, labels)
    noise = torch.randn(len(labels), 2, generator=generator)
    features = torch.stack([2.0 * labels + noise[:, 0], 6.0 * ground + noise[:, 1]], 1)
    groups = [(str(int(label)), str(int(where))) for label, where in zip(labels, ground, strict=True)]
    return LabelledFeatures(features=features, labels=labels, groups=groups)


def test_a_subset_holds_as_many_of_each_group_as_the_smallest_has() -> None:
    data = world(usual=50, rare=4)
    subsets = list(balanced_subsets(data, 3, seed=0))
    assert [Counter(data.groups[row] for row in subset) for subset in subsets] == [
        {(label, ground): 4 for label in "01" for ground in "01"}
    ] * 3
    assert len({tuple(subset.tolist()) for subset in subsets}) == 3


def test_heads_in_balance_look_at_the_class_where_plain_ones_look_at_the_ground() -> None:
    data, test = world(usual=200, rare=20), world(usual=500, rare=500)
    found = {
        candidate.words: float((candidate.head(test.features).argmax(1) == test.labels).float().mean())
        for candidate in dfr_heads(data, 2, seed=0)
    }
    assert len(found) == len(STRENGTHS) + len(POWERS) * len(WEIGHTED_STRENGTHS)
    # Without the ground 84 % are right: the class's feature is two deviations apart.
    plain = max(value for words, value in found.items() if "counts as n^1," in words)
    assert plain < 0.75
    for name in (f"mean of {NUM_SUBSETS} subsets with 20 of each group", "counts as n^0,"):
        assert max(value for words, value in found.items() if name in words) > 0.8
    assert all("of 440 images of 4 groups, the smallest of 20" in words for words in found)
