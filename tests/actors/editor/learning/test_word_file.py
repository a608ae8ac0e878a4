from pathlib import Path

import numpy as np
import pytest
from tiny_pipelines import save_stable_diffusion

from actors.editor.learning.adapters import read_adapter
from actors.editor.learning.learned_file import FILE
from actors.editor.learning.word_file import LearnedWord, read_word
from engine.errors import ModelError
from engine.runfile.editor import AdapterConfig

VECTORS = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)
WORD = LearnedWord(value="wet asphalt", vectors=VECTORS, model="mine", model_digest="00ff", settings="11ee")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / FILE).write_bytes(WORD.to_bytes())
    return tmp_path


def test_a_word_is_read_as_it_was_written_and_has_the_digest_of_its_bytes(folder: Path) -> None:
    found = read_word(folder)
    assert (found.learned.value, found.learned.model, found.learned.settings) == (WORD.value, WORD.model, WORD.settings)
    assert np.array_equal(found.learned.vectors, VECTORS)
    assert read_word(folder).digest == found.digest
    (folder / FILE).write_bytes(LearnedWord(**{**vars(WORD), "vectors": VECTORS + 1}).to_bytes())
    assert read_word(folder).digest != found.digest


def test_a_pinned_digest_and_the_value_must_be_those_of_the_file(folder: Path) -> None:
    digest = read_word(folder).digest
    assert read_adapter(AdapterConfig(value="wet asphalt", path=str(folder), digest=digest)).digest == digest
    with pytest.raises(ModelError, match=f"has the digest {digest}, the run file asks for 0"):
        read_adapter(AdapterConfig(value="wet asphalt", path=str(folder), digest="0"))
    with pytest.raises(ModelError, match="is a word for 'wet asphalt', not for 'snow'"):
        read_adapter(AdapterConfig(value="snow", path=str(folder)))


@pytest.mark.parametrize("content", [b"", b"no safetensors", None])
def test_what_is_no_word_is_refused_in_words(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ModelError, match="learn"):
        read_word(tmp_path)


def test_weights_of_something_else_are_no_word(tmp_path: Path) -> None:
    model = save_stable_diffusion(tmp_path / "model", "img2img")
    (tmp_path / FILE).write_bytes((model / "unet" / "diffusion_pytorch_model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="was not written by `counterforge learn`"):
        read_word(tmp_path)


def test_diffusers_reads_the_file_too(folder: Path) -> None:
    import diffusers

    model = save_stable_diffusion(folder / "model", "img2img")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(model, local_files_only=True)
    pipeline.load_textual_inversion(folder, weight_name=FILE, local_files_only=True)
    token = pipeline.tokenizer.convert_tokens_to_ids("<wet asphalt>")
    weight = pipeline.text_encoder.get_input_embeddings().weight[token].detach().numpy()
    assert np.allclose(weight, VECTORS[0])
