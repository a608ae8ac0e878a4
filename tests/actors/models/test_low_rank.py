from itertools import permutations

import pytest
import torch
from tiny_pipelines import tiny_unet
from torch import nn

from actors.models.device import fix_threads
from actors.models.low_rank import Factors, LowRankAdapters, ScaledAdapter

SNOW, SAND = ScaledAdapter(name="snow", scale=0.5), ScaledAdapter(name="sand", scale=2.0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)


def factors(unet: nn.Module, seed: int) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randn(2, layer.in_features, generator=generator) / 4,
            torch.randn(layer.out_features, 2, generator=generator) / 4,
        )
        for name, layer in unet.named_modules()
        if isinstance(layer, nn.Linear) and ".attn" in name
    }


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    torch.manual_seed(0)
    return tiny_unet(4)


def run(unet: nn.Module, order: tuple[int, ...] = (0, 1, 2, 3)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    latents, text = torch.randn(4, 4, 8, 8, generator=generator), torch.randn(4, 5, 32, generator=generator)
    with torch.inference_mode():
        return unet(latents[list(order)], torch.arange(4)[list(order)], text[list(order)]).sample


def test_each_row_has_the_adapter_and_the_scale_of_its_own(unet: nn.Module) -> None:
    plain = run(unet)
    adapters = LowRankAdapters(unet, {"snow": factors(unet, 1), "sand": factors(unet, 2)})
    assert torch.equal(run(unet), plain)
    alone = []
    for each in (SNOW, SAND, ScaledAdapter(name="snow", scale=1.0)):
        with adapters.rows([each]):
            alone.append(run(unet))
    with adapters.rows([SNOW, None, SAND, ScaledAdapter(name="snow", scale=1.0)]):
        mixed = run(unet)
    assert torch.equal(mixed[1], plain[1])
    for row, (place, whole) in enumerate(zip((0, 2, 3), alone, strict=True)):
        assert torch.equal(mixed[place], whole[place]), row
        assert not torch.allclose(mixed[place], plain[place], atol=1e-3)
    assert torch.equal(run(unet), plain)


def test_a_row_does_not_depend_on_the_adapters_beside_it(unet: nn.Module) -> None:
    adapters = LowRankAdapters(unet, {"snow": factors(unet, 1), "sand": factors(unet, 2)})
    rows = [SNOW, None, SAND, None]
    with adapters.rows(rows):
        expected = run(unet)
    for order in permutations(range(4)):
        with adapters.rows([rows[place] for place in order]):
            assert torch.equal(run(unet, order), expected[list(order)])


def test_a_row_without_an_adapter_stays_finite_beside_one_that_overflows(unet: nn.Module) -> None:
    plain = run(unet)
    huge = {name: (down * 1e30, up * 1e30) for name, (down, up) in factors(unet, 1).items()}
    with LowRankAdapters(unet, {"huge": huge}).rows([ScaledAdapter(name="huge", scale=1.0), None, None, None]):
        found = run(unet)
    assert not found[0].isfinite().all()
    assert torch.equal(found[1:], plain[1:])


def test_an_adapter_that_is_put_again_replaces_the_first(unet: nn.Module) -> None:
    adapters = LowRankAdapters(unet, {"snow": factors(unet, 1)})
    with adapters.rows([SNOW]):
        before = run(unet)
        adapters.put("snow", factors(unet, 2))
    with adapters.rows([SNOW]):
        after = run(unet)
    assert not torch.equal(before, after)
