import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from tiny_models import jpeg, save_language_model

from actors.language.generation import Ask
from actors.models.device import fix_threads
from actors.perturber.chat import render_chat
from actors.perturber.perturber import Perturber
from engine.errors import ModelError
from engine.runfile.fields import ModelConfig
from engine.runfile.perturber import AllocatedPerturberConfig, PerturberConfig, WantedEdit
from engine.sample import Rejection, Sample

CPU = torch.device("cpu")
PLACES = ("sand", "snow", "gravel", "brick", "water", "wood")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("models") / "lm")


def source(key: str, caption: str = "a photo of a red sneaker on grass") -> Sample:
    return Sample(
        key=key, source_key=key, role="source", image=jpeg(), label=3, class_name="sneaker", split="validation",
        caption=caption, attributes={"background": "grass"},
    )  # fmt: skip


def perturber(folder: Path, **changes: object) -> Perturber:
    settings = {"model": ModelConfig(name=str(folder)), "batch_size": 4, "max_new_tokens": 8, **changes}
    return Perturber(PerturberConfig(**settings), CPU, name="perturber", seed=7, offline=True)


def answer(place: str) -> str:
    return json.dumps(
        {
            "before": "grass",
            "after": place,
            "caption": f"a photo of a red sneaker on {place}",
            "instruction": f"put the sneaker on {place}",
        }
    )


class Script:
    """Write given texts in turn, and keep what was asked."""

    def __init__(self, texts: list[str]) -> None:
        self.calls: Counter[str] = Counter()
        self.asked: list[tuple[str, int]] = []
        self._texts = iter(texts)

    def texts(self, asks: deque[Ask]) -> Iterator[tuple[Ask, str]]:
        while asks:
            ask = asks.popleft()
            self.asked.append((ask.prompt, ask.seed))
            yield ask, next(self._texts)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], list[tuple[str, int]]]:
    """Have perturbers that are made from now on answer with given texts in turn; return what they are asked."""

    def start(texts: list[str]) -> list[tuple[str, int]]:
        script = Script(texts)
        monkeypatch.setattr("actors.perturber.chat.make_writer", lambda *_: script)
        return script.asked

    return start


def test_a_source_is_followed_by_its_placebo_and_its_edits(folder: Path, scripted: Callable) -> None:
    scripted([answer("sand"), answer("snow")])
    given = source("s0")
    first, placebo, *edits = perturber(folder, edits={"background": 2}, severities=(0.5, 1.0))([given])
    assert first == given
    assert isinstance(placebo, Sample)
    assert placebo.edit is not None
    assert (placebo.key, placebo.role, placebo.image) == ("s0_placebo", "placebo", b"")
    assert placebo.edit.before == placebo.edit.after
    assert (placebo.edit.caption, placebo.edit.instruction) == (given.caption, "keep the picture as it is")
    seen = [(item.key, item.edit.after, item.edit.severity) for item in edits]
    assert seen == [
        ("s0_cf00", "sand", 0.5),
        ("s0_cf01", "sand", 1.0),
        ("s0_cf02", "snow", 0.5),
        ("s0_cf03", "snow", 1.0),
    ]
    for item in edits:
        assert (item.role, item.image, item.label, item.split) == ("counterfactual", b"", 3, "validation")
        assert (item.source_key, item.attributes, item.caption) == ("s0", given.attributes, given.caption)


def test_the_model_is_asked_in_its_own_chat_format(folder: Path, scripted: Callable) -> None:
    asked = scripted([answer("sand")])
    list(perturber(folder, edits={"background": 1})([source("s0")]))
    ((prompt, _),) = asked
    user = "caption: a photo of a red sneaker on grass\nclass: sneaker\nchange: background"
    assert prompt.startswith("<|system|>You invent")
    assert prompt.endswith(f"<|end|><|user|>{user}<|end|><|assistant|>")


def test_a_class_with_an_id_is_asked_about_and_guarded_by_its_words(folder: Path, scripted: Callable) -> None:
    swap = {"before": "red sneaker", "after": "blue boot", "caption": "a photo of a blue boot on grass"}
    asked = scripted([json.dumps({**swap, "instruction": "make it a boot"}), answer("sand")])
    shoe = replace(source("s0"), class_name="n04254777")
    _, found = perturber(folder, edits={"background": 1}, placebo=False, class_words={"n04254777": "shoe, sneaker"})(
        [shoe]
    )
    assert found.class_name == "n04254777"
    assert found.edit.after == "sand"
    assert len(asked) == 2
    assert "\nclass: shoe\nchange: background" in asked[0][0]
    assert 'The class word "shoe" stays' in asked[0][0]


def test_words_of_classes_may_be_written_as_yaml_reads_them() -> None:
    config = PerturberConfig(
        model=ModelConfig(name="zoo/perturber"), class_words={7: ["sneaker", "trainer"], "n01440764": "tench, carp"}
    )
    assert config.class_words == {"7": ("sneaker", "trainer"), "n01440764": ("tench", "carp")}
    assert "class_words" not in PerturberConfig(model=ModelConfig(name="zoo/perturber")).changes()
    for bad in ({"7": []}, {"7": ""}, {"7": 3}):
        with pytest.raises(ValidationError):
            PerturberConfig(model=ModelConfig(name="zoo/perturber"), class_words=bad)


def test_a_bad_reply_is_asked_again_with_another_seed_then_given_up(folder: Path, scripted: Callable) -> None:
    asked = scripted(["nonsense", answer("sand"), "more nonsense"])
    results = list(perturber(folder, edits={"background": 2}, severities=(0.5, 1.0), placebo=False)([source("s0")]))
    failed = results[1:3]
    assert [item.key for item in failed] == ["s0_cf00", "s0_cf01"]
    for item in failed:
        assert isinstance(item, Rejection)
        assert (item.stage, item.reason) == ("perturber", "reply_not_json")
        assert item.detail.endswith("reply: more nonsense")
    assert [item.key for item in results[3:]] == ["s0_cf02", "s0_cf03"]
    assert asked[0][0] == asked[2][0]
    assert asked[0][1] != asked[2][1]


def test_edits_of_one_kind_and_source_differ(folder: Path, scripted: Callable) -> None:
    scripted([answer("sand"), answer("sand"), answer("Sand"), answer("snow"), answer("sand")])
    stage = perturber(folder, edits={"background": 3}, placebo=False)
    _, first, second, third = stage([source("s0")])
    assert first.edit.after == "sand"
    assert second.edit.after == "snow"
    assert isinstance(third, Rejection)
    assert third.reason == "duplicate_edit"


def test_two_sources_may_have_the_same_edit(folder: Path, scripted: Callable) -> None:
    scripted([answer("sand"), answer("sand")])
    results = list(perturber(folder, edits={"background": 1}, placebo=False)([source("s0"), source("s1")]))
    assert [item.key for item in results] == ["s0", "s0_cf00", "s1", "s1_cf00"]


def test_a_source_without_a_caption_gets_rejections_for_its_edits(folder: Path) -> None:
    first, *rest = perturber(folder, edits={"background": 2})([source("s0", caption="")])
    assert isinstance(first, Sample)
    assert [(item.key, item.reason) for item in rest] == [("s0_cf00", "no_caption"), ("s0_cf01", "no_caption")]


def test_replies_of_a_real_model_do_not_depend_on_neighbours(folder: Path) -> None:
    stage = perturber(folder, edits={"background": 1, "colour": 1}, placebo=False)
    samples = [source("s0"), source("s1", "a red sneaker on sand, seen from far away, at night"), source("s2")]
    alone = [item for sample in samples for item in stage([sample])]
    together = list(stage(samples))
    assert alone == together
    details = [item.detail for item in together if isinstance(item, Rejection)]
    assert len(set(details)) == len(details) == 6


def test_calls_count_what_the_model_was_asked_for(folder: Path) -> None:
    stage = perturber(folder, edits={"background": 2, "colour": 1}, retries=1)
    list(stage([source("s0"), source("s1", "a red sneaker on sand")]))
    # None of the random model's texts parses: each is asked for twice. Both backgrounds have the same prompt.
    assert stage.calls["texts"] == 12
    assert stage.calls["prompts"] == 4
    assert 0 < stage.calls["useful_tokens"] < stage.calls["tokens"]


def test_a_stage_goes_on_after_a_batch_that_was_broken_off(folder: Path) -> None:
    stage = perturber(folder, edits={"background": 3})
    expected = list(stage([source("s1")]))
    asks = deque([Ask(key="left", prompt="never written to its end", seed=1)])
    next(stage.model.writer.texts(asks))
    assert list(stage([source("s1")])) == expected


def test_a_template_without_system_messages_gets_one_user_message(tmp_path: Path) -> None:
    template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ messages[0]['content'] }}"
    )
    stage = perturber(save_language_model(tmp_path, template))
    assert render_chat(stage.model.tokenizer, "x", "SYSTEM", "USER") == "SYSTEM\n\nUSER"


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no chat template"):
        perturber(save_language_model(tmp_path, None))


def test_a_source_with_an_allocation_gets_the_wanted_values_and_says_so(folder: Path, scripted: Callable) -> None:
    wanted = [
        WantedEdit(kind="background", value=value, severity=1.0, share=share)
        for value, share in (("snow", 0.6), ("sand", 0.3), ("grass", 0.1))
    ]
    base = PerturberConfig(model=ModelConfig(name=str(folder)), batch_size=4, edits={"background": 2}, retries=2)
    config = AllocatedPerturberConfig.model_validate(
        base.model_dump() | {"allocation": "abc", "wanted": {"sneaker": wanted}}
    )
    asked = scripted([answer("wood"), answer("sand"), answer("snow")])
    stage = Perturber(config, CPU, name="perturber", seed=7, offline=True)
    _, _, first, second = stage([source("s0")])
    assert [item.key for item in (first, second)] == ["s0_cf00", "s0_cf01"]
    assert {item.edit.after for item in (first, second)} == {"snow", "sand"}
    for item in (first, second):
        made_by = item.provenance["perturber"]
        assert (made_by["allocation"], made_by["wanted"]) == ("abc", item.edit.after)
    assert 'should be "s' in asked[0][0]
    assert asked[0][0].count('should be "') == 1
