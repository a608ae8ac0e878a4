from pathlib import Path

import numpy as np
import pytest
import torch
from loras import factors_of, save_lora

from actors.editor.learning.adapters import read_adapter
from actors.editor.learning.learned_file import FILE
from actors.editor.learning.lora_file import read_lora
from actors.editor.learning.word_file import LearnedWord, read_word
from actors.models.low_rank import LowRankAdapters, ScaledAdapter
from engine.errors import ModelError
from engine.runfile.editor import AdapterConfig


@pytest.fixture(scope="module")
def model(instruct: Path) -> Path:
    return instruct


def test_a_lora_is_read_as_it_was_written(model: Path, tmp_path: Path) -> None:
    adapter = save_lora(tmp_path / "lora", model, "wet asphalt")
    found = read_lora(tmp_path / "lora")
    assert (found.learned.value, found.learned.word, found.digest) == ("wet asphalt", "wet asphalt", adapter.digest)
    written = factors_of(model)
    assert found.learned.factors.keys() == written.keys()
    assert all(
        np.array_equal(one, two)
        for layer, pair in written.items()
        for one, two in zip(pair, found.learned.factors[layer], strict=True)
    )


def test_a_word_is_no_lora_and_a_lora_no_word(model: Path, tmp_path: Path) -> None:
    save_lora(tmp_path / "lora", model, "snow")
    word = LearnedWord(
        value="snow", vectors=np.ones((1, 32), np.float32), model="tiny", model_digest="00", settings="11"
    )
    (tmp_path / "word").mkdir()
    (tmp_path / "word" / FILE).write_bytes(word.to_bytes())
    with pytest.raises(
        ModelError, match=r"lora/learned.safetensors is a LoRA and not a learned word: write kind: lora"
    ):
        read_word(tmp_path / "lora")
    with pytest.raises(ModelError, match=r"word/learned.safetensors is a learned word and not a LoRA: write kind: tok"):
        read_adapter(AdapterConfig(value="snow", path=str(tmp_path / "word"), kind="lora"))


def test_a_file_that_is_cut_short_or_of_other_values_is_refused(model: Path, tmp_path: Path) -> None:
    adapter = save_lora(tmp_path / "lora", model, "snow")
    with pytest.raises(ModelError, match="is a LoRA for 'snow', not for 'sand': correct value"):
        read_adapter(adapter.model_copy(update={"value": "sand"}))
    with pytest.raises(ModelError, match=f"has the digest {adapter.digest}, the run file asks for 0"):
        read_adapter(adapter.model_copy(update={"digest": "0"}))
    path = tmp_path / "lora" / FILE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"cannot be read .*learn it again"):
        read_lora(tmp_path / "lora")


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_diffusers_and_peft_read_the_file_and_their_unet_gives_what_ours_gives(
    scale: float, model: Path, tmp_path: Path
) -> None:
    import diffusers

    save_lora(tmp_path / "lora", model, "snow")
    ours, theirs = (
        diffusers.StableDiffusionInstructPix2PixPipeline.from_pretrained(model, local_files_only=True) for _ in range(2)
    )
    generator = torch.Generator().manual_seed(0)
    latents, text = torch.randn(3, 8, 16, 16, generator=generator), torch.randn(3, 7, 32, generator=generator)
    factors = {layer: (torch.from_numpy(down), torch.from_numpy(up)) for layer, (down, up) in factors_of(model).items()}
    adapters = LowRankAdapters(ours.unet, {"snow": factors})
    theirs.load_lora_weights(tmp_path / "lora", weight_name=FILE, adapter_name="snow", local_files_only=True)
    theirs.set_adapters("snow", scale)
    with torch.inference_mode():
        plain = ours.unet(latents, 10, text).sample
        with adapters.rows([ScaledAdapter(name="snow", scale=scale)]):
            one = ours.unet(latents, 10, text).sample
        two = theirs.unet(latents, 10, text).sample
    assert torch.allclose(one, two, atol=1e-5)
    assert (one - plain).abs().max() > 0.01
