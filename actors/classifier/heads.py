"""The head of a classifier: the layers whose outputs are its logits, found by what they do and not by their size."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from actors.models.untyped import Model

Head = nn.Linear | nn.Conv2d
# In half precision the gradients of a head are as good as this; those of any other layer are nowhere near.
TOLERANCE = 1e-2
# The least weight of an output in its logit: two heads have a half each.
MIN_WEIGHT = 1e-2
NUM_DIRECTIONS = 3
# A row of a head whose output is 0 for every image.
ALWAYS_ZERO = -1


@torch.enable_grad()
def find_heads(model: Model, inputs: Tensor) -> list[str]:
    """Return the names of the linear layers and convolutions whose output k goes into logit k and into no other.

    There are two where a model takes the mean of two heads, none where it ends in something else. `inputs` are two
    images. A sum of logits with random weights has at a head's outputs these weights as its gradient, times a factor
    that is the same for both images.
    """
    # A copy: some models keep what they computed for the next images (LeViT, its attention biases).
    model = copy.deepcopy(model)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Head)}
    outputs: dict[str, list[Tensor]] = {name: [] for name in layers}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda _, __, output, name=name: outputs[name].append(output))
    logits = model(inputs.detach().requires_grad_()).logits
    generator = torch.Generator().manual_seed(0)
    heads = [name for name, layer in layers.items() if len(outputs[name]) == 1 and num_rows(layer) == logits.shape[1]]
    for _ in range(NUM_DIRECTIONS):
        if not heads:
            break
        weights = torch.randn(logits.shape[1], generator=generator).to(logits)
        found = [outputs[name][0] for name in heads]
        gradients = torch.autograd.grad((logits * weights).sum(), found, retain_graph=True, allow_unused=True)
        heads = [
            name
            for name, gradient in zip(heads, gradients, strict=True)
            if gradient is not None and _is_multiple(_channels_last(gradient, layers[name]), weights)
        ]
    return heads


@contextmanager
def recorded_inputs(layers: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Record what each of these layers gets in the last forward pass within."""
    found: dict[nn.Module, Tensor] = {}
    hooks = [layer.register_forward_pre_hook(lambda layer, got: found.update({layer: got[0]})) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def select_rows(model: Model, heads: Sequence[str], rows: Sequence[int]) -> None:
    """Give the heads these of their rows, in this order, perhaps with ALWAYS_ZERO."""
    for name in heads:
        layer = model.get_submodule(name)
        for key, values in list(layer.named_parameters(recurse=False)):
            padded = torch.cat([values.detach(), torch.zeros_like(values[:1])])
            setattr(layer, key, nn.Parameter(padded[list(rows)]))
        setattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", len(rows))


def num_rows(layer: Head) -> int:
    """Return the number of a layer's outputs."""
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _channels_last(values: Tensor, layer: Head) -> Tensor:
    """Return (num_images, num_positions, num_outputs)."""
    values = values.movedim(1, -1) if isinstance(layer, nn.Conv2d) else values
    return values.reshape(len(values), -1, values.shape[-1]).float()


def _is_multiple(gradient: Tensor, weights: Tensor) -> bool:
    weights = weights.float()
    factors = gradient @ weights / (weights @ weights)
    rest = (gradient - factors[..., None] * weights).abs().amax()
    total = factors.sum(1)
    return bool(
        total.abs().amin() >= MIN_WEIGHT
        and rest <= TOLERANCE * gradient.abs().amax()
        and len(total) == 2
        and torch.isclose(total[0], total[1], rtol=TOLERANCE)
    )
