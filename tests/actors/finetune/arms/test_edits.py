"""The losses of arms with edits, against what they are by definition."""

import math

import pytest
import torch
import torch.nn.functional as F

from actors.finetune.arms.edits import distillation, edit_terms, jensen_shannon, soft_targets
from engine.runfile.reinforce import ReinforceConfig

SURE_OF_FIRST, SURE_OF_SECOND = torch.tensor([[50.0, -50.0]]), torch.tensor([[-50.0, 50.0]])


def logits(seed: int = 0) -> torch.Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))


def test_jensen_shannon_is_zero_for_equal_answers_and_log_2_for_opposite_ones() -> None:
    assert float(jensen_shannon(logits(), logits())) == pytest.approx(0, abs=1e-6)
    assert float(jensen_shannon(SURE_OF_FIRST, SURE_OF_SECOND)) == pytest.approx(math.log(2))
    assert float(jensen_shannon(logits(0), logits(1))) == pytest.approx(float(jensen_shannon(logits(1), logits(0))))


def test_jensen_shannon_is_the_mean_divergence_from_the_mixture() -> None:
    p, q = logits(0).softmax(1), logits(1).softmax(1)
    m = (p + q) / 2
    expected = 0.5 * ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)).mean()
    assert float(jensen_shannon(logits(0), logits(1))) == pytest.approx(float(expected), rel=1e-5)


def test_distillation_is_the_divergence_of_the_student_from_the_teacher() -> None:
    expected = F.kl_div(logits(0).log_softmax(1), logits(1).softmax(1), reduction="batchmean")
    assert float(distillation(logits(0), logits(1))) == pytest.approx(float(expected), rel=1e-5)
    assert float(distillation(logits(0), logits(0))) == pytest.approx(0, abs=1e-6)


def test_a_soft_label_is_in_part_the_answer_to_the_source_and_only_for_edits() -> None:
    labels, known = torch.tensor([0, 1, 2, 3, 0]), logits()[:3]
    targets = soft_targets(labels, known, torch.tensor([1, 2]), torch.tensor([3, 4]), 0.25)
    hard = F.one_hot(labels, 4).float()
    assert torch.equal(targets[:3], hard[:3])
    torch.testing.assert_close(targets[3:], 0.75 * hard[3:] + 0.25 * known[1:].softmax(1))
    assert torch.equal(soft_targets(labels, known, torch.tensor([1]), torch.tensor([3]), 0.0), hard)


def test_each_term_counts_by_its_weight() -> None:
    pairs, teacher = torch.tensor([[1, 3], [2, 4]]), logits(1)[:3]
    assert float(edit_terms(logits(), pairs, teacher, ReinforceConfig())) == 0
    found = edit_terms(logits(), pairs, teacher, ReinforceConfig(consistency=2.0, distillation=3.0))
    more = 2 * jensen_shannon(logits()[[1, 2]], logits()[[3, 4]]) + 3 * distillation(logits()[:3], teacher)
    torch.testing.assert_close(found, more)
    no_pairs = torch.zeros((0, 2), dtype=torch.int64)
    assert float(edit_terms(logits(), no_pairs, None, ReinforceConfig(consistency=2.0))) == 0
