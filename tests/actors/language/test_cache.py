"""Rows of keys and values: what is in one is its text's alone."""

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from actors.language.cache import RowCache


def cache(num_rows: int = 2, length: int = 8) -> RowCache:
    config = Qwen2Config(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    torch.manual_seed(0)
    return RowCache(Qwen2ForCausalLM(config).eval(), num_rows, length)


def test_a_row_goes_on_where_its_memory_ends() -> None:
    one, rows = cache(num_rows=1), cache(num_rows=3)
    tokens = torch.tensor([[3, 4, 5, 6]])
    with torch.inference_mode():
        expected = rows.model(tokens).logits[0, -1]
        one.forward(tokens[:, :3], torch.arange(3)[None], num_columns=3)
        rows.put(slice(2, 3), one.take(0, 3))
        found = rows.forward(torch.tensor([[9], [9], [6]]), torch.tensor([[0], [7], [3]]), num_columns=8)
    torch.testing.assert_close(found[2], expected)


def test_what_overflowed_in_a_row_does_not_reach_the_next_text() -> None:
    rows = cache()
    with torch.inference_mode():
        rows.put(slice(0, 1), [(torch.full((1, 1, 8, 8), torch.inf),) * 2] * 2)
        rows.put(slice(0, 1), [(torch.ones(1, 1, 3, 8),) * 2] * 2)
        scores = rows.forward(torch.tensor([[5], [5]]), torch.tensor([[3], [0]]), num_columns=8)
    assert torch.isfinite(scores).all()
