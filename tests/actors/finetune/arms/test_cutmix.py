"""CutMix: an image's share is the area that is its own, and its label is mixed in that share."""

import pytest
import torch
import torch.nn.functional as F

from actors.finetune.arms.cutmix import cutmixed, mixed_cross_entropy


def test_a_cutmix_image_is_its_own_and_its_partner_s_in_the_shares_that_are_said() -> None:
    images = torch.arange(1.0, 33)[:, None, None, None].expand(-1, 3, 16, 12)
    mixed, partners, shares = cutmixed(images, torch.Generator().manual_seed(1))
    for row, partner in enumerate(partners.tolist()):
        own = mixed[row] == images[row]
        assert torch.equal(own | (mixed[row] == images[partner]), torch.ones_like(own))
        if partner != row:
            assert abs(float(own.float().mean()) - float(shares[row])) < 1e-6
    assert sorted(partners.tolist()) == list(range(32))
    assert 0.3 < float(shares.mean()) < 0.8
    assert float(shares.std()) > 0.1


def test_a_mixed_label_is_a_cross_entropy_against_both_in_their_shares() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    labels, partners, shares = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([1, 0, 3, 2, 4]), torch.full((5,), 0.7)
    soft = 0.7 * F.one_hot(labels, 4) + 0.3 * F.one_hot(labels[partners], 4)
    expected = F.cross_entropy(logits, soft)
    assert float(mixed_cross_entropy(logits, labels, partners, shares)) == pytest.approx(float(expected), rel=1e-5)
