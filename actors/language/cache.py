"""Keys and values of texts in rows of one fixed length: each row grows at its own place."""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from actors.models.untyped import Model

# Of each layer the keys and the values of one text, (1, heads, num_tokens, width).
Memory: TypeAlias = list[tuple[Tensor, Tensor]]


class RowLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped
    """Hold one layer's keys and values, (num_rows, heads, length, width), and write new ones where `places` says.

    `places` are the positions of the tokens of one forward pass, (num_rows, num_tokens); `num_columns` of the length
    are read in it.
    """

    def __init__(self, length: int, rows: Tensor) -> None:
        super().__init__()
        self.length, self.rows = length, rows
        self.places, self.num_columns = rows, length

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make room of the model's own shape and dtype."""
        self.keys, self.values = (
            states.new_zeros(states.shape[0], states.shape[1], self.length, states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Take the new keys and values, (num_rows, heads, num_tokens, width); return those that are read."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys[self.rows, :, self.places] = key_states.transpose(1, 2)
        self.values[self.rows, :, self.places] = value_states.transpose(1, 2)
        return self.keys[:, :, : self.num_columns], self.values[:, :, : self.num_columns]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return length and offset of what the mask covers."""
        return self.num_columns, 0

    def get_seq_length(self) -> int:
        """Return 0: each row has a length of its own, and the model is told all positions."""
        return 0

    def get_max_length(self) -> int:
        """Return the length."""
        return self.length


class RowCache(Cache):  # type: ignore[misc]  # transformers is untyped
    """Hold the keys and values of `num_rows` texts of at most `length` tokens each.

    All that a row's results depend on is in that row, and every shape is fixed, so neighbours do not matter.
    """

    def __init__(self, model: Model, num_rows: int, length: int) -> None:
        rows = torch.arange(num_rows, device=model.device)[:, None]
        super().__init__(layers=[RowLayer(length, rows) for _ in layer_kinds(model)])
        self.length, self.model = length, model

    def forward(self, tokens: Tensor, places: Tensor, num_columns: int) -> Tensor:
        """Run the model on (num_rows, num_tokens) tokens at these positions; return the logits of the last ones.

        A token sees the places of its row up to its own, all of them among the first `num_columns`.
        """
        for layer in self.layers:
            layer.places, layer.num_columns = places, num_columns
        columns = torch.arange(num_columns, device=places.device)
        mask = (columns <= places[:, :, None])[:, None]
        if attention_of(self.model) == "eager":  # which adds its mask; the others take booleans
            mask = torch.zeros(mask.shape, dtype=self.model.dtype, device=mask.device).masked_fill(
                ~mask, torch.finfo(self.model.dtype).min
            )
        output = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=places,
            past_key_values=self,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def take(self, row: int, num_tokens: int) -> Memory:
        """Return a copy of the first tokens' keys and values of a row."""
        here = slice(row, row + 1)
        return [
            (layer.keys[here, :, :num_tokens].clone(), layer.values[here, :, :num_tokens].clone())
            for layer in self.layers
        ]

    def put(self, rows: slice, memory: Memory) -> None:
        """Let rows begin with these keys and values; what was in them is gone."""
        for layer, (keys, values) in zip(self.layers, memory, strict=True):
            if not layer.is_initialized:
                num_rows = len(layer.rows)
                layer.lazy_initialization(keys.expand(num_rows, -1, -1, -1), values.expand(num_rows, -1, -1, -1))
            num_tokens = keys.shape[2]
            layer.keys[rows, :, :num_tokens], layer.values[rows, :, :num_tokens] = keys, values
            # A masked place counts nothing unless it holds an infinity: 0 * inf is NaN.
            layer.keys[rows, :, num_tokens:], layer.values[rows, :, num_tokens:] = 0, 0


def layer_kinds(model: Model) -> Sequence[CacheLayerMixin]:
    """Return what a model's layers keep of the past, as transformers' own cache would hold it."""
    from transformers import DynamicCache

    return list(DynamicCache(config=model.config).layers)


def attention_of(model: Model) -> str | None:
    """Return the name of a model's attention implementation; None where this transformers has no such private name.

    It has no public one; the test of slots tells when it is gone.
    """
    name: str | None = getattr(model.config, "_attn_implementation", None)
    return name
