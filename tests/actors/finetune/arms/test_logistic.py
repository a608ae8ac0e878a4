"""Logistic regression with an L1 penalty, against scikit-learn 1.7 (solver saga, tolerance 1e-10)."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from actors.finetune.arms.logistic import LinearHead, Scaler, fit_path


def test_objective_and_weights_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 4)).astype(np.float32)
    labels = np.arange(60) % 3
    features[:, 0] += labels
    features[:, 1] -= 0.5 * labels
    rows, targets = torch.from_numpy(features), torch.from_numpy(labels)
    (_, (_, head)) = fit_path(rows, targets, 3, strengths=(0.05, 0.3))
    loss = torch.nn.functional.cross_entropy(head(rows), targets) + head.weight.abs().sum() / (0.3 * 60)
    assert abs(float(loss) - 0.86619) < 1e-4
    wanted = [[-0.676, 0.0, 0.036, -0.137], [0.0, 0.0, 0.0, 0.256], [0.904, -0.819, 0.0, 0.0]]
    np.testing.assert_allclose(head.weight.numpy(), wanted, atol=5e-3)
    np.testing.assert_allclose((head.bias - head.bias.mean()).numpy(), [0.837, 0.369, -1.206], atol=5e-3)


def test_weights_of_images_count_as_repeats_of_them() -> None:
    rows, labels = torch.tensor([[0.0], [1.0], [0.5], [3.0]]), torch.tensor([0, 1, 0, 1])
    times = torch.tensor([3, 1, 1, 1])
    ((_, repeated),) = fit_path(rows.repeat_interleave(times, 0), labels.repeat_interleave(times), 2, strengths=(1.0,))
    # 4 rows that count as 6: the penalty is per image.
    ((_, weighted),) = fit_path(rows, labels, 2, times * 4 / 6, strengths=(1.5,))
    torch.testing.assert_close(weighted.weight, repeated.weight, atol=1e-3, rtol=1e-3)


def test_a_scaler_folds_into_the_head_and_leaves_constant_features() -> None:
    rows = torch.tensor([[1.0, 5.0], [3.0, 5.0], [8.0, 5.0]])
    scaler = Scaler.of(rows)
    head = LinearHead(weight=torch.tensor([[1.0, 2.0], [0.5, -1.0]]), bias=torch.tensor([0.1, 0.2]))
    torch.testing.assert_close(scaler.folded(head)(rows), head(scaler(rows)))
    assert scaler(rows)[:, 1].tolist() == [0.0, 0.0, 0.0]


def test_a_head_on_the_way_lies_between() -> None:
    start, end = (LinearHead(weight=torch.full((2, 1), value), bias=torch.zeros(2)) for value in (0.0, 4.0))
    assert start.towards(end, 0.25).weight.tolist() == [[1.0], [1.0]]


def test_a_fitted_head_can_be_saved_as_it_is(tmp_path: Path) -> None:
    ((_, head),) = fit_path(torch.randn(12, 5), torch.arange(12) % 3, 3, strengths=(1.0,))
    # It refuses a tensor that is a view of a transposed one.
    save_file({"weight": head.weight, "bias": head.bias}, tmp_path / "head.safetensors")
    assert torch.equal(load_file(tmp_path / "head.safetensors")["weight"], head.weight)
