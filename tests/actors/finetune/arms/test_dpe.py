"""Prototypes in the head's place: what they answer, and that members of an ensemble differ."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from actors.classifier.prototypes import PrototypeHead, load_prototypes
from actors.finetune.arms import dpe
from actors.finetune.arms.dpe import dpe_heads, fit_ensemble
from actors.finetune.arms.features import LabelledFeatures


def test_logits_are_the_log_of_the_members_mean_probability(tmp_path: Path) -> None:
    torch.manual_seed(0)
    head = PrototypeHead(torch.randn(3, 4, 6), torch.tensor([1.0, -2.0, 0.5]))
    features = torch.randn(5, 6)
    rows = F.normalize(features - features.mean(1, keepdim=True))
    every = [
        (-scale.abs() * torch.cdist(rows, F.normalize(prototypes))).softmax(1)
        for prototypes, scale in zip(head.prototypes, head.scales, strict=True)
    ]
    torch.testing.assert_close(head(features).softmax(1), torch.stack(every).mean(0), atol=1e-5, rtol=1e-5)
    assert load_prototypes(str(tmp_path)) is None
    save_file(head.state_dict(), tmp_path / "prototypes.safetensors")
    loaded = load_prototypes(str(tmp_path))
    assert loaded is not None
    assert torch.equal(loaded(features), head(features))


def clusters(seed: int) -> LabelledFeatures:
    """Two classes of two clusters each."""
    torch.manual_seed(seed)
    labels = torch.arange(2).repeat(60)
    centres = F.normalize(torch.randn(4, 12, generator=torch.Generator().manual_seed(7))) * 4
    cluster = 2 * labels + torch.arange(2).repeat_interleave(2).repeat(30)
    features = centres[cluster] + 0.5 * torch.randn(120, 12)
    groups = [(str(int(label)), str(int(each))) for label, each in zip(labels, cluster, strict=True)]
    return LabelledFeatures(features=features, labels=labels, groups=groups)


def test_an_ensemble_learns_the_classes_from_either_balance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dpe, "NUM_MEMBERS", 4)
    test = clusters(1)
    found = list(dpe_heads(clusters(0), 2, seed=0))
    assert [candidate.words.split(" in balance over ")[1] for candidate in found] == [
        "classes, rate 0.001", "classes, rate 0.01",
        "groups of class and attributes, rate 0.001", "groups of class and attributes, rate 0.01",
    ]  # fmt: skip
    right = [float((candidate.head(test.features).argmax(1) == test.labels).float().mean()) for candidate in found]
    assert min(right) > 0.8
    assert max(right) > 0.95


def test_the_similarity_penalty_keeps_members_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    data, rows, usual = clusters(0), [torch.arange(120)] * 4, dpe.SIMILARITY_PENALTY

    def similarity(penalty: float) -> float:
        """Return the mean cosine between prototypes of one class."""
        monkeypatch.setattr(dpe, "SIMILARITY_PENALTY", penalty)
        members = F.normalize(fit_ensemble(data, 2, rows, 1e-2, seed=0).prototypes, dim=-1)
        return float(torch.einsum("mkd,nkd->kmn", members, members).triu(1).sum() / (2 * 6))

    assert similarity(0.0) > similarity(usual) + 0.2
