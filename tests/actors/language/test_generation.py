"""Texts that draw from their own random numbers, written in padded batches."""

from collections import deque
from pathlib import Path

import pytest
import torch
from tiny_models import save_language_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.language.generation import Ask, GumbelNoise, PaddedTexts
from actors.models.device import fix_threads
from engine.runfile.fields import ModelConfig
from engine.runfile.perturber import PerturberConfig

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)


def writer(folder: Path, **changes: object) -> PaddedTexts:
    save_language_model(folder)
    settings = {"model": ModelConfig(name="tiny"), "batch_size": 4, "max_new_tokens": 8, **changes}
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return PaddedTexts(model, AutoTokenizer.from_pretrained(folder), PerturberConfig(**settings))


def test_sampling_follows_the_softmax() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    noise = GumbelNoise([5], 0.5, CPU)
    draws = torch.stack([noise(torch.empty(1, 0), logits).argmax(1) for _ in range(20_000)])
    shares = torch.bincount(draws.flatten(), minlength=4) / len(draws)
    assert torch.allclose(shares, (logits[0] / 0.5).softmax(0), atol=0.01)


def test_seeds_decide_what_is_written(tmp_path: Path) -> None:
    asks = deque(Ask(key=str(number), prompt="one", seed=seed) for number, seed in enumerate((1, 2, 1)))
    texts = {ask.key: text for ask, text in writer(tmp_path).texts(asks)}
    assert texts["0"] == texts["2"] != texts["1"]


def test_asks_may_be_put_in_while_texts_come(tmp_path: Path) -> None:
    made = writer(tmp_path, batch_size=2)
    asks = deque(Ask(key=str(number), prompt="one", seed=number) for number in range(3))
    keys = []
    for ask, _ in made.texts(asks):
        keys.append(ask.key)
        if len(keys) == 1:
            asks.append(Ask(key="late", prompt="two", seed=9))
    assert keys == ["0", "1", "2", "late"]


def test_calls_count_tokens_and_the_useful_ones_among_them(tmp_path: Path) -> None:
    made = writer(tmp_path, max_new_tokens=3)
    made.model.generation_config.eos_token_id = made.model.config.vocab_size - 1  # rare: the texts reach their limit
    list(made.texts(deque([Ask(key="0", prompt="ab", seed=1)])))
    # A prompt of two tokens, two of the text's three are read; three more rows, and 30 places of padding in each.
    assert made.calls == {"texts": 1, "prompts": 1, "tokens": 4 * (32 + 2), "useful_tokens": 2 + 2}
