"""Convolutions and linear layers with weights in oneDNN's own layout: a part of what a compiler does, without one."""

import logging
from functools import partial
from typing import Any

import torch
from torch import nn

from actors.models.untyped import Model

LOG = logging.getLogger(__name__)
# Not public, but what torch's own compiler calls on a CPU.
ONEDNN = torch.ops.mkldnn


def can_pack() -> bool:
    """Return whether oneDNN computes in bfloat16 on this processor, and torch has the operators that `pack` needs."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch's own
        return False
    try:
        return bool(ONEDNN._is_mkldnn_bf16_supported()) and _works()
    except (AttributeError, RuntimeError, TypeError) as error:
        LOG.warning("torch %s has other operators for oneDNN, weights are not packed: %s", torch.__version__, error)
        return False


def pack(network: Model) -> None:
    """Bring the weights of a bfloat16 network on a CPU into oneDNN's layout, in place and for good.

    Otherwise they are reordered in each call, and a linear layer first writes its bias to every row. Outputs are as
    near to those in float32 as before; a GEGLU (Shazeer 2020, eq. 6) rounds sum, GELU and product once, not each.
    """
    from diffusers.models.activations import GEGLU

    for part in network.modules():
        if isinstance(part, GEGLU):
            weights = [_packed(half.contiguous()) for half in part.proj.weight.detach().chunk(2)]
            biases = (None, None) if part.proj.bias is None else part.proj.bias.detach().chunk(2)
            part.forward = partial(_geglu, *weights, *biases)
            del part.proj
    _pack_layers(network)


@torch.inference_mode()
def _works() -> bool:
    """Return True where a small layer of each kind can be packed and run; what torch raises where one cannot."""
    image = torch.ones(1, 8, 8, 8, dtype=torch.bfloat16)
    # From no random numbers, as others may draw them from the same generator.
    convolution, linear = nn.Conv2d(8, 8, 1, device="meta"), nn.Linear(8, 8, device="meta")
    layers: Model = nn.Sequential(convolution, linear).to_empty(device="cpu").to(torch.bfloat16)
    _pack_layers(layers)
    weight = layers[1].weight
    return _geglu(weight, weight, None, None, layers(image)).shape == image.shape


def _pack_layers(network: Model) -> None:
    for part in network.modules():
        # No class of a library's own, which may do more.
        kind = type(part)
        if kind is nn.Linear:
            weight, part.forward = _packed(part.weight.detach()), partial(_linear, part)
        elif kind is nn.Conv2d and part.padding_mode == "zeros" and not isinstance(part.padding, str):
            plain = part.weight.detach().contiguous().to_mkldnn()
            weight = torch._C._nn.mkldnn_reorder_conv2d_weight(plain, *_geometry(part))
            part.forward = partial(_convolution, part)
        else:
            continue
        part.weight = nn.Parameter(weight, requires_grad=False)


def _packed(weight: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(ONEDNN._reorder_linear_weight(weight, None))


def _linear(part: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
    rows = inputs.to(part.weight.dtype)
    return torch.as_tensor(ONEDNN._linear_pointwise(rows, part.weight, part.bias, "none", [], ""))


def _geglu(
    weight: torch.Tensor,
    gate_weight: torch.Tensor,
    bias: torch.Tensor | None,
    gate_bias: torch.Tensor | None,
    inputs: torch.Tensor,
) -> torch.Tensor:
    rows = inputs.to(weight.dtype)
    gate = ONEDNN._linear_pointwise(rows, gate_weight, gate_bias, "gelu", [], "none")
    return torch.as_tensor(ONEDNN._linear_pointwise.binary(rows, gate, weight, bias, "mul"))


def _convolution(part: nn.Conv2d, inputs: torch.Tensor) -> torch.Tensor:
    images = inputs.to(part.weight.dtype)
    return torch.as_tensor(
        ONEDNN._convolution_pointwise(images, part.weight, part.bias, *_geometry(part), "none", [], "")
    )


def _geometry(part: nn.Conv2d) -> tuple[Any, ...]:
    # Any: the arguments' types are a union that torch's stubs do not know as one.
    return part.padding, part.stride, part.dilation, part.groups
