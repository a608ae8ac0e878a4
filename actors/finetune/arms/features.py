"""Frozen features: what the classifier's head gets of each image; and a linear head as weights of the classifier."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from actors.classifier.heads import Head, recorded_inputs
from actors.finetune.arms.logistic import LinearHead
from engine.errors import ModelError

# Of logits, computed from the features instead of by the classifier.
TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class LabelledFeatures:
    """Features (n, dim), labels (n,), and the group of each image: its class and the values of its attributes."""

    features: Tensor
    labels: Tensor
    groups: Sequence[tuple[str, ...]]

    def __add__(self, other: "LabelledFeatures") -> "LabelledFeatures":
        """Return both sets as one."""
        return LabelledFeatures(
            features=torch.cat([self.features, other.features]),
            labels=torch.cat([self.labels, other.labels]),
            groups=(*self.groups, *other.groups),
        )


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A fitted head, a function of features (n, dim) to logits (n, num_classes), and how it was fitted, in words."""

    head: Callable[[Tensor], Tensor]
    words: str


@torch.inference_mode()
def head_inputs(model: nn.Module, heads: Sequence[str], inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the heads get of a model's inputs (n, dim), and its logits (n, num_classes).

    Of several positions it is the mean; what two heads get lies side by side.
    """
    layers = [model.get_submodule(name) for name in heads]
    with recorded_inputs(layers) as found:
        logits: Tensor = model(pixel_values=inputs).logits
    return torch.cat([_pooled(found[layer], layer) for layer in layers], 1).float(), logits.float()


def check_head(model: nn.Module, heads: Sequence[str], inputs: Tensor) -> None:
    """Raise ModelError unless a model's logits are what its heads make of `head_inputs`."""
    features, logits = head_inputs(model, heads, inputs)
    if not torch.allclose(linear_head(model, heads)(features), logits, rtol=TOLERANCE, atol=TOLERANCE):
        raise ModelError(
            f"the logits of this {type(model).__name__} are not the mean of its heads {[*heads]}, so none can be "
            "fitted on frozen features: leave the arms with `fit` out of reinforce.arms"
        )


def check_replaceable(model: nn.Module, heads: Sequence[str]) -> None:
    """Raise ModelError unless a model ends in one linear layer, which a head of prototypes can take the place of."""
    if len(heads) > 1 or not isinstance(model.get_submodule(heads[0]), nn.Linear):
        raise ModelError(
            f"prototypes take the place of one linear layer, this {type(model).__name__} ends in {[*heads]}: leave the "
            "arms with `fit: dpe` out of reinforce.arms"
        )


def linear_head(model: nn.Module, heads: Sequence[str]) -> LinearHead:
    """Return the heads of a model as one linear classifier of the features."""
    layers = [_layer(model, name) for name in heads]
    weight = torch.cat([layer.weight.detach().flatten(1) for layer in layers], 1) / len(layers)
    return LinearHead(weight=weight, bias=torch.stack([_bias(layer) for layer in layers]).mean(0))


def head_weights(model: nn.Module, heads: Sequence[str], head: LinearHead) -> dict[str, Tensor]:
    """Return the entries of a model's state that make its heads answer together as `head` does."""
    layers = [_layer(model, name) for name in heads]
    parts = torch.split(head.weight, [layer.weight[0].numel() for layer in layers], 1)
    found = {}
    for name, layer, part in zip(heads, layers, parts, strict=True):
        found[f"{name}.weight"] = (len(layers) * part).reshape(layer.weight.shape).clone()
        found[f"{name}.bias"] = head.bias.clone()
    return found


def _layer(model: nn.Module, name: str) -> Head:
    layer = model.get_submodule(name)
    if not isinstance(layer, Head) or layer.bias is None:
        raise ModelError(
            f"the head {name} of this {type(model).__name__} is no linear layer with a bias, which is what can be "
            "fitted on frozen features: leave the arms with `fit` out of reinforce.arms"
        )
    return layer


def _bias(layer: Head) -> Tensor:
    assert layer.bias is not None
    return layer.bias.detach()


def _pooled(inputs: Tensor, layer: nn.Module) -> Tensor:
    """Return (n, dim): a convolution has its positions last, a linear layer before the dimension."""
    if isinstance(layer, nn.Conv2d):
        return inputs.flatten(2).mean(2)
    return inputs.reshape(len(inputs), -1, inputs.shape[-1]).mean(1)
