from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from edits import CPU, EDIT, group
from tiny_models import jpeg
from tiny_pipelines import save_flux_kontext, save_stable_diffusion, save_stable_diffusion_xl

from actors.editor.learning.inversion import InversionSettings
from actors.editor.learning.learner import Learner, LoraLearning, WordLearning
from actors.editor.learning.lora import LoraSettings
from actors.editor.learning.pairs import EditedPair
from engine.errors import ModelError
from engine.runfile.editor import EditorConfig
from engine.runfile.fields import ModelConfig

VALUE = "sand"
SETTINGS = InversionSettings(start="s", num_vectors=2, num_steps=12, seed=3, batch_size=4)
LORA = LoraSettings(start=VALUE, rank=2, num_steps=12, seed=3, batch_size=4)


def pairs(text: str = "put it on sand") -> list[EditedPair]:
    found = []
    for index in range(8):
        source = group(f"s{index}")[0]
        edit = replace(EDIT, instruction=text, caption=text, after=VALUE)
        edited = replace(source, key=f"s{index}_cf", image=jpeg((230, 230, 90), seed=index), edit=edit)
        found.append(EditedPair(source=source, edited=edited, edit=edit))
    return found


def learner(model: Path, method: str = "instruct") -> Learner:
    config = EditorConfig.model_validate({"model": ModelConfig(name=str(model)), "method": method})
    return Learner(config, CPU, offline=True)


def learning(model: Path, settings: InversionSettings = SETTINGS, method: str = "instruct") -> WordLearning:
    found = learner(model, method).begin(pairs(), VALUE, settings)
    assert isinstance(found, WordLearning)
    return found


def lora_learning(model: Path, settings: LoraSettings = LORA, method: str = "instruct") -> LoraLearning:
    found = learner(model, method).begin(pairs(), VALUE, settings)
    assert isinstance(found, LoraLearning)
    return found


@pytest.mark.parametrize("method", ["instruct", "img2img"])
def test_the_loss_falls_and_the_norms_stay(method: str, tmp_path: Path) -> None:
    model = save_stable_diffusion(tmp_path / "model", method)
    started = learning(model, replace(SETTINGS, num_steps=40, learning_rate=0.1), method)
    steps = list(started.training.steps(tmp_path / "checkpoint.safetensors", "d", every=20))
    assert [each.step for each in steps] == [20, 40]
    losses = started.losses()
    assert losses.learned < losses.start
    vectors = started.inversion.vectors
    assert torch.allclose(vectors.norm(dim=1), started.start.norm(dim=1), rtol=1e-5)
    assert not torch.allclose(vectors, started.start, rtol=0.01)


def test_nothing_but_the_word_changes(instruct: Path, tmp_path: Path) -> None:
    maker = learner(instruct)
    parts = {name: getattr(maker._pipeline, name) for name in ("unet", "text_encoder", "vae")}
    started = maker.begin(pairs(), VALUE, SETTINGS)
    before = {name: {key: each.clone() for key, each in part.state_dict().items()} for name, part in parts.items()}
    list(started.training.steps(tmp_path / "checkpoint.safetensors", "d", every=6))
    for name, part in parts.items():
        assert all(torch.equal(each, before[name][key]) for key, each in part.state_dict().items()), name


def test_an_interrupted_learning_goes_on_to_the_same_bits(instruct: Path, tmp_path: Path) -> None:
    whole = learning(instruct)
    list(whole.training.steps(tmp_path / "whole.safetensors", "d", every=4))
    interrupted = learning(instruct)
    assert [
        each.step for each in islice(interrupted.training.steps(tmp_path / "cut.safetensors", "d", every=4), 2)
    ] == [4, 8]
    resumed = learning(instruct)
    steps = list(resumed.training.steps(tmp_path / "cut.safetensors", "d", every=4))
    assert [(each.step, each.num_made) for each in steps] == [(12, 4)]
    assert torch.equal(resumed.inversion.vectors, whole.inversion.vectors)


def test_a_checkpoint_of_other_settings_is_started_anew(instruct: Path, tmp_path: Path) -> None:
    list(learning(instruct).training.steps(tmp_path / "checkpoint.safetensors", "one", every=4))
    steps = list(learning(instruct).training.steps(tmp_path / "checkpoint.safetensors", "other", every=4))
    assert [each.step for each in steps] == [4, 8, 12]


@pytest.mark.parametrize("method", ["instruct", "img2img"])
def test_the_loss_falls_with_a_lora_of_the_attention_alone(method: str, tmp_path: Path) -> None:
    model = save_stable_diffusion(tmp_path / "model", method)
    started = lora_learning(model, replace(LORA, num_steps=40, learning_rate=0.01), method)
    unet = started.learner._pipeline.unet
    before = {name: each.clone() for name, each in unet.state_dict().items()}
    assert not any(up.any() for _, up in started.lora.factors.values())
    list(started.training.steps(tmp_path / "checkpoint.safetensors", "d", every=20))
    losses = started.losses()
    assert losses.learned < losses.start == losses.own
    assert all(up.any() for _, up in started.lora.factors.values())
    assert {layer.partition(".attn")[2][2:] for layer in started.lora.factors} == {"to_q", "to_k", "to_v", "to_out.0"}
    assert all(torch.equal(each, before[name]) for name, each in unet.state_dict().items())


def test_an_interrupted_lora_goes_on_to_the_same_bytes(instruct: Path, tmp_path: Path) -> None:
    whole = lora_learning(instruct)
    list(whole.training.steps(tmp_path / "whole.safetensors", "d", every=4))
    list(islice(lora_learning(instruct).training.steps(tmp_path / "cut.safetensors", "d", every=4), 2))
    resumed = lora_learning(instruct)
    steps = list(resumed.training.steps(tmp_path / "cut.safetensors", "d", every=4))
    assert [(each.step, each.num_made) for each in steps] == [(12, 4)]
    assert resumed.learned("s").to_bytes() == whole.learned("s").to_bytes()


def test_a_lora_may_learn_from_texts_with_another_word_for_the_value(instruct: Path) -> None:
    mixed = [*pairs(), *pairs("put it on the beach")]
    assert learner(instruct).begin(mixed, VALUE, LORA).num_pairs == 16
    other = learner(instruct).begin(mixed, VALUE, replace(LORA, start="mud"))
    assert other.num_pairs == 8
    losses = other.losses()
    assert losses.start == losses.learned != losses.own


def test_another_seed_learns_other_vectors(instruct: Path, tmp_path: Path) -> None:
    made = []
    for seed in (3, 3, 4):
        started = learning(instruct, replace(SETTINGS, seed=seed))
        list(started.training.steps(tmp_path / f"{len(made)}.safetensors", "d", every=12))
        made.append(started.inversion.vectors)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_pairs_that_do_not_name_the_value_are_left_out_and_refused_if_all_are(instruct: Path) -> None:
    mixed = [*pairs(), *pairs("put it on the beach")]
    assert learner(instruct).begin(mixed, VALUE, SETTINGS).num_pairs == 8
    with pytest.raises(ModelError, match=r"none of the 8 edits names 'sand'.*'put it on the beach'"):
        learner(instruct).begin(pairs("put it on the beach"), VALUE, SETTINGS)


def test_editors_that_can_learn_no_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="more than one text encoder"):
        learner(save_stable_diffusion_xl(tmp_path / "xl", "instruct"))
    with pytest.raises(ModelError, match="is no UNet pipeline"):
        learner(save_flux_kontext(tmp_path / "kontext"))
