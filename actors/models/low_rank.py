"""Low-rank adapters of a network's linear layers (LoRA), each row of a call with the adapter and the scale of its own.

Hu et al. 2021, "LoRA", eq. 3: a layer W gives W x + scale * B (A x), with A (rank, in) and B (out, rank). As nothing is
merged into W, rows of one call may differ, and a row without an adapter keeps its bits.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import nn

from actors.models.device import upload
from actors.models.untyped import Model

# The two factors of each layer, by its name in the network: A (rank, in) and B (out, rank).
Factors = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class ScaledAdapter:
    """The adapter of a row: its name, and what its product is multiplied by.

    `steps` is the share of an edit's steps, from and to, in which it acts.
    """

    name: str
    scale: float
    steps: tuple[float, float] = (0.0, 1.0)


class LowRankAdapters:
    """Give a network adapters by name; they act in calls inside `rows` alone, and change nothing of its weights."""

    def __init__(self, network: Model, adapters: Mapping[str, Factors] = MappingProxyType({})) -> None:
        self._network, self._device = network, network.device
        self._factors: dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]] = {}
        self._scales: dict[str, torch.Tensor] = {}
        for name, factors in adapters.items():
            self.put(name, factors)

    def put(self, name: str, factors: Factors) -> None:
        """Add an adapter, or replace the one of that name; its factors are on the network's device."""
        for layer, pair in factors.items():
            if layer not in self._factors:
                self._factors[layer] = {}
                self._network.get_submodule(layer).register_forward_hook(partial(self._add, self._factors[layer]))
            self._factors[layer][name] = pair

    @contextmanager
    def rows(self, adapters: Sequence[ScaledAdapter | None]) -> Iterator[None]:
        """Let calls have these adapters, one for each of their rows, or a single one for all of them."""
        for name in {each.name: None for each in adapters if each is not None}:
            scales = [each.scale if each is not None and each.name == name else 0.0 for each in adapters]
            self._scales[name] = upload(torch.tensor(scales)[:, None, None], self._device)
        try:
            yield
        finally:
            self._scales = {}

    def _add(
        self,
        factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
        _: nn.Module,
        arguments: tuple[torch.Tensor, ...],
        output: torch.Tensor,
    ) -> torch.Tensor:
        """Return a layer's output, (num_rows, num_tokens, out), with the products of the adapters that rows have.

        All rows are multiplied, so that a row's bits do not depend on how many others have the adapter.
        """
        for name, scales in self._scales.items():
            if (pair := factors.get(name)) is not None:
                down, up = (each.to(output.dtype) for each in pair)
                product = F.linear(F.linear(arguments[0].to(output.dtype), down), up)
                output = torch.where(scales != 0, output + scales.to(output.dtype) * product, output)
        return output
