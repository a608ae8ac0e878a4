"""Projection: a head that does not see the direction in which edits move the features."""

import torch

from actors.finetune.arms.features import LabelledFeatures
from actors.finetune.arms.projection import STRENGTHS, projection_heads, read_values


def test_a_head_without_the_habits_direction_is_right_where_the_habit_misleads() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat(100)
    noise = torch.randn(200, 3, generator=generator)
    # The class in feature 0, the ground in feature 1, which always agrees with the class.
    features = torch.stack([2.0 * labels, 6.0 * labels, 0.0 * labels], 1) + noise
    sources, grounds = features[:40], labels[:40]
    edits = sources.clone()
    edits[:, 1] += 6.0 * (1 - 2 * grounds)
    values = [f"background: {1 - int(ground)}" for ground in grounds]
    data = LabelledFeatures(features=features, labels=labels, groups=[(str(int(each)),) for each in labels])
    found = list(projection_heads(data, edits, sources, values, 2))
    # As many directions as there are, at most, and none to begin with.
    assert len(found) == (3 + 1) * len(STRENGTHS)
    misleading = features.clone()
    misleading[:, 1] += 6.0 * (1 - 2 * labels)

    def accuracy(words: str) -> float:
        heads = [candidate.head for candidate in found if candidate.words.startswith(words)]
        return max(float((head(misleading).argmax(1) == labels).float().mean()) for head in heads)

    assert accuracy("without 0 of 3") < 0.6
    assert accuracy("without 1 of 3") > 0.8
    one = found[len(STRENGTHS)]
    assert (
        abs(float(one.head(torch.tensor([[0.0, 100.0, 0.0]]) - 0).diff() - one.head(torch.zeros(1, 3)).diff())) < 1e-3
    )
    assert "leaves 0 % of the movement of 40 edits" in one.words
    assert "reads their new value" in one.words


def test_values_are_read_from_features_that_have_them() -> None:
    values = [f"colour: {number % 2}" for number in range(40)]
    clear = torch.tensor([[float(number % 2), 1.0] for number in range(40)])
    assert read_values(clear, values) == 1.0
    assert read_values(torch.ones(40, 2), values) == 0.5
