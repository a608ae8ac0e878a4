"""The contrastive term, against its definition."""

import math

import pytest
import torch

from actors.finetune.arms.contrast import TEMPERATURE, supervised_contrast


def test_it_is_the_mean_over_anchors_and_their_positives_of_equation_2() -> None:
    features = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = [0, 1, 0, 1, 0]
    unit = features / features.norm(dim=1, keepdim=True)
    losses = []
    for anchor in range(5):
        others = [each for each in range(5) if each != anchor]
        total = sum(math.exp(float(unit[anchor] @ unit[each]) / TEMPERATURE) for each in others)
        positives = [each for each in others if labels[each] == labels[anchor]]
        logs = [float(unit[anchor] @ unit[each]) / TEMPERATURE - math.log(total) for each in positives]
        losses.append(-sum(logs) / len(positives))
    found = supervised_contrast(features, torch.tensor(labels))
    assert float(found) == pytest.approx(sum(losses) / 5, rel=1e-5)


def test_it_is_low_where_a_class_is_one_direction_and_zero_where_no_class_comes_twice() -> None:
    apart = torch.eye(4)
    assert float(supervised_contrast(apart[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1]))) < 0.02
    assert float(supervised_contrast(apart[[0, 1, 0, 1]], torch.tensor([0, 0, 1, 1]))) > 4
    assert float(supervised_contrast(apart, torch.tensor([0, 1, 2, 3]))) == 0
