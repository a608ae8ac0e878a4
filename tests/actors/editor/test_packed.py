"""Weights in oneDNN's layout: layers and a UNet as near to float32 as without it, each row alone."""

import copy
from types import SimpleNamespace

import pytest
import torch
from tiny_pipelines import tiny_unet

from actors.editor.slots.packed import can_pack, pack
from actors.models.device import fix_threads

pytestmark = pytest.mark.skipif(not can_pack(), reason="oneDNN has no bfloat16 on this processor")
XL = {
    "use_linear_projection": True, "attention_head_dim": (2, 4), "transformer_layers_per_block": (1, 2),
    "num_class_embeds": 3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)
    torch.manual_seed(0)


def test_without_torchs_private_operators_nothing_is_packed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    others = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: True)
    monkeypatch.setattr("actors.editor.slots.packed.ONEDNN", others)
    assert not can_pack()
    assert "weights are not packed" in caplog.text


@pytest.mark.parametrize("num_rows", [1, 3, 32])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (torch.nn.Linear(48, 80), (7, 48)),
        (torch.nn.Linear(48, 80, bias=False), (48,)),
        (torch.nn.Conv2d(24, 40, 3, padding=1), (24, 8, 8)),
        (torch.nn.Conv2d(24, 40, 3, stride=2, padding=1, bias=False), (24, 8, 8)),
        (torch.nn.Conv2d(24, 24, 1, groups=4), (24, 5, 5)),
    ],
    ids=str,
)
@torch.inference_mode()
def test_a_packed_layer_is_as_near_to_float32(layer: torch.nn.Module, shape: tuple[int, ...], num_rows: int) -> None:
    """The same bits on the processors that were tried; another one may add in another order before it rounds."""
    plain = torch.nn.Sequential(copy.deepcopy(layer)).to(torch.bfloat16).to(memory_format=torch.channels_last)
    packed, exact = copy.deepcopy(plain), copy.deepcopy(plain).float()
    pack(packed)
    rows = torch.randn(num_rows, *shape, dtype=torch.bfloat16)
    rows = rows.to(memory_format=torch.channels_last) if rows.dim() == 4 else rows
    assert packed[0].weight.is_mkldnn
    expected = exact(rows.float())
    # One rounding to bfloat16 is up to 1/2^9; one lost channel of 80 would be 1/9.
    assert (
        (packed(rows).float() - expected).norm()
        <= 1.1 * (plain(rows).float() - expected).norm()
        < expected.norm() / 2**8
    )


@pytest.mark.parametrize("changes", [{}, XL], ids=["1", "XL"])
@torch.inference_mode()
def test_a_packed_unet_is_as_near_to_float32_and_a_row_is_its_own(changes: dict[str, object]) -> None:
    exact = tiny_unet(8, **changes).eval()
    plain = copy.deepcopy(exact).to(torch.bfloat16).to(memory_format=torch.channels_last)
    packed = copy.deepcopy(plain)
    pack(packed)
    kinds = {"class_labels": torch.arange(6) % 3} if changes else {}
    latents, times, text = torch.randn(6, 8, 16, 16), torch.linspace(0, 999, 6), torch.randn(6, 5, 32)
    halves = latents.to(torch.bfloat16), times, text.to(torch.bfloat16)
    expected = exact(latents, times, text, **kinds).sample
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, before = packed(*halves, **kinds).sample, plain(*halves, **kinds).sample
        others = [torch.cat([part[:1], part[1:].flip(0)]) for part in halves]
        among_others = packed(*others, **kinds).sample
    assert (found.float() - expected).norm() < 1.1 * (before.float() - expected).norm()
    assert torch.equal(found[0], among_others[0])
    assert packed.dtype == torch.bfloat16
