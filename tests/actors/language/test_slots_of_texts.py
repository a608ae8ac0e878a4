"""Texts written in slots: each depends on itself alone, and on nothing that the padded way would write otherwise."""

from collections import deque
from collections.abc import Sequence

import pytest
import torch
import transformers
from tiny_models import CHAT_TOKENS, text_tokenizer

from actors.language.cache import attention_of
from actors.language.generation import Ask, PaddedTexts, Writer
from actors.language.slots import Slots, TextSlots, make_writer
from actors.models.device import fix_threads
from actors.models.untyped import Model
from engine.runfile.perturber import PerturberConfig

TOKENIZER = text_tokenizer(CHAT_TOKENS)
WORDS = ("sneaker", "grass", "sand", "snow", "gravel", "brick", "photo", "red", "blue", "coat", "bag", "on", "the", "a")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)


def language_model(family: str = "Qwen2", **changes: object) -> Model:
    """Return a tiny model of random weights, large enough that what it writes depends on all that it has read."""
    settings = {
        "vocab_size": len(TOKENIZER), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.2, **changes,
    }  # fmt: skip
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**settings)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def writer(network: Model, kind: type[Writer] | None = None, **changes: object) -> Writer:
    settings = {"model": {"name": "tiny"}, "batch_size": 4, "max_new_tokens": 40, **changes}
    return (kind or make_writer)(network, TOKENIZER, PerturberConfig.model_validate(settings))


def asks(numbers: Sequence[int], head: str = "") -> deque[Ask]:
    """Return asks whose prompts are 10 to 240 tokens long, by number."""
    return deque(
        Ask(
            key=str(number),
            prompt=head + " ".join(WORDS[(number + word) % len(WORDS)] for word in range(2 + 7 * number % 40)),
            seed=number,
            head=head,
        )
        for number in numbers
    )


def written(made: Writer, wanted: deque[Ask]) -> dict[str, str]:
    return {ask.key: text for ask, text in made.texts(wanted)}


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[torch.Tensor]]:
    """Return what will hold the scores from which each text was drawn, by the key of its ask."""
    seen: dict[str, list[torch.Tensor]] = {}
    original = Slots._punished

    def spy(slots: Slots, values: torch.Tensor) -> torch.Tensor:
        for text, row in zip(slots._texts, values, strict=True):
            if text is not None:
                seen.setdefault(text.waiting.ask.key, []).append(row.clone())
        return original(slots, values)

    monkeypatch.setattr(Slots, "_punished", spy)
    return seen


HEAD = "You invent one small change to a photograph, " * 3


@pytest.mark.parametrize(
    ("family", "head", "dtype"),
    [("Qwen2", "", "float32"), ("Qwen2", HEAD, "float32"), ("Qwen2", HEAD, "bfloat16"), ("Gemma2", "", "float32")],
)
def test_every_bit_of_a_text_is_its_own(
    family: str, head: str, dtype: str, scores: dict[str, list[torch.Tensor]]
) -> None:
    settings = {"head_dim": 8} if family == "Gemma2" else {}
    made = writer(language_model(family, **settings), model={"name": "tiny", "dtype": dtype})
    together = written(made, asks(range(12), head))
    among_all = {key: torch.stack(rows) for key, rows in scores.items()}
    for wanted in (asks([5], head), asks(range(11, -1, -1), head), asks([9, 0, 5, 7], head)):
        scores.clear()
        assert written(made, wanted).items() <= together.items()
        assert all(torch.equal(torch.stack(rows), among_all[key]) for key, rows in scores.items())


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("Qwen2", {}),
        ("GPT2", {}),
        ("Gemma2", {"head_dim": 8}),  # an eager attention with soft caps, windows in every other layer
        ("Mistral", {}),
        ("Qwen3Moe", {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}),
        ("GPTNeoX", {"num_key_value_heads": 4}),
    ],
)
def test_slots_write_what_generate_writes(family: str, settings: dict[str, object]) -> None:
    model = language_model(family, **settings)
    slots = writer(model)
    assert isinstance(slots, TextSlots)
    texts = written(slots, asks(range(10)))
    assert len(texts) == 10
    assert texts == written(writer(model, PaddedTexts), asks(range(10)))


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("Bloom", {}),  # places come from the mask
        ("Mamba", {}),  # no keys and values
        ("Lfm2", {"layer_types": ["conv", "full_attention"]}),
    ],
)
def test_other_models_are_left_to_generate(family: str, settings: dict[str, object]) -> None:
    made = writer(language_model(family, **settings))
    assert isinstance(made, PaddedTexts)
    assert len(written(made, asks(range(3)))) == 3


def test_a_repetition_penalty_of_the_model_counts_in_slots_too() -> None:
    model = language_model()
    plain = written(writer(model), asks(range(6)))
    model.generation_config.repetition_penalty = 1.5
    slots = writer(model)
    assert isinstance(slots, TextSlots)
    texts = written(slots, asks(range(6)))
    assert texts == written(writer(model, PaddedTexts), asks(range(6)))
    assert texts != plain


def test_settings_of_generate_that_slots_lack_are_left_to_it() -> None:
    model = language_model()
    model.generation_config.no_repeat_ngram_size = 2
    assert isinstance(writer(model), PaddedTexts)


def test_settings_of_generate_that_change_nothing_are_no_hindrance() -> None:
    model = language_model()
    model.generation_config.update(num_beams=1, length_penalty=1.0, no_repeat_ngram_size=0, early_stopping=False)
    assert isinstance(writer(model), TextSlots)
    model.generation_config.num_beams = 2
    assert isinstance(writer(model), PaddedTexts)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_transformers_still_names_the_attention_that_a_model_was_given(attention: str) -> None:
    model = language_model()
    model.set_attn_implementation(attention)
    assert attention_of(model) == attention
    assert isinstance(writer(model), TextSlots)


def test_padded_batches_write_where_transformers_names_no_attention(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = language_model()
    with monkeypatch.context() as patch:
        patch.delattr(transformers.PreTrainedConfig, "_attn_implementation")
        made = writer(model)
    assert isinstance(made, PaddedTexts)
    assert [record.message for record in caplog.records if "padded batches" in record.message]
    assert len(written(made, asks(range(3)))) == 3


def test_a_prompt_that_would_leave_a_window_is_left_to_generate() -> None:
    model = language_model("Mistral", sliding_window=128)
    slots, padded = writer(model), writer(model, PaddedTexts)
    assert isinstance(slots, TextSlots)
    numbers = range(10)
    assert {len(ask.prompt) + 40 > 128 for ask in asks(numbers)} == {True, False}
    assert written(slots, asks(numbers)) == written(padded, asks(numbers))


def test_a_slot_is_filled_again_at_once() -> None:
    model = language_model()
    slots, padded = writer(model), writer(model, PaddedTexts)
    numbers = range(60)
    written(slots, deque(Ask(key=str(number), prompt="a photo", seed=number) for number in numbers))
    written(padded, deque(Ask(key=str(number), prompt="a photo", seed=number) for number in numbers))
    assert slots.calls["texts"] == padded.calls["texts"] == 60
    share = {made: made.calls["useful_tokens"] / made.calls["tokens"] for made in (slots, padded)}
    assert share[slots] > 0.9
    assert share[padded] < 0.6


def test_a_prompt_is_read_once_for_the_texts_that_follow_it() -> None:
    made = writer(language_model())
    wanted = deque(
        Ask(key=f"{number}/{seed}", prompt=f"photo {number}", seed=seed) for number in range(3) for seed in range(2)
    )
    assert len(set(written(made, wanted).values())) == 6
    assert made.calls["prompts"] == 3


def test_what_begins_all_prompts_is_read_once() -> None:
    model, wanted = language_model(), asks(range(12), HEAD)
    alone, sharing = writer(model), writer(model)
    apart = written(alone, deque(Ask(key=ask.key, prompt=ask.prompt, seed=ask.seed) for ask in wanted))
    assert written(sharing, wanted) == apart
    begun = len(HEAD) // 64 * 64
    assert alone.calls["useful_tokens"] - sharing.calls["useful_tokens"] == 12 * begun


def test_asks_may_be_put_in_while_texts_come() -> None:
    made, wanted = writer(language_model()), asks([1, 2])
    keys = []
    for ask, _ in made.texts(wanted):
        keys.append(ask.key)
        if len(keys) < 6:
            wanted.extend(asks([len(keys) + 20]))
    assert sorted(keys, key=int) == ["1", "2", "21", "22", "23", "24", "25"]
