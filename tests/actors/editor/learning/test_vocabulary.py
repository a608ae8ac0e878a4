from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from edits import EDIT, editor, group, pixels
from tiny_pipelines import save_flux_kontext, save_stable_diffusion, save_stable_diffusion_xl

from actors.editor.learning.learned_file import FILE
from actors.editor.learning.word_file import LearnedWord, read_word
from actors.models.files import ModelFiles
from engine.errors import ModelError
from engine.runfile.editor import AdapterConfig
from engine.runfile.fields import ModelConfig
from engine.sample import Rejection, Sample


def adapter(folder: Path, model: Path, vectors: np.ndarray, value: str = "sand") -> AdapterConfig:
    digest = ModelFiles(config=ModelConfig(name=str(model)), folder=str(model)).digest
    word = LearnedWord(value=value, vectors=vectors, model="tiny", model_digest=digest, settings="")
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_bytes(word.to_bytes())
    return AdapterConfig(value=value, path=str(folder))


def edited(*instructions: str, after: str = "sand", severity: float = 1.0) -> list[Sample]:
    """Return a source, its placebo, and an edit with each instruction."""
    source, placebo, first = group("a", num_edits=1)
    edits = [
        replace(
            first,
            key=f"a_cf{index}",
            edit=replace(EDIT, instruction=text, caption=f"a boot, {text}", after=after, severity=severity),
        )
        for index, text in enumerate(instructions)
    ]
    return [source, placebo, *edits]


def own_vectors(model: Path, value: str) -> np.ndarray:
    """Return the vectors that the editor's own word has."""
    pipeline = editor(model).pipeline
    ids = pipeline.tokenizer(value, add_special_tokens=False).input_ids
    return np.asarray(pipeline.text_encoder.get_input_embeddings().weight[ids].detach())


NOISE = np.random.default_rng(1).normal(size=(4, 32)).astype(np.float32)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("severity", [0.5, 1.0])
def test_a_word_of_the_values_own_vectors_draws_what_the_value_draws(
    severity: float, guidance: float, instruct: Path, tmp_path: Path
) -> None:
    same = adapter(tmp_path / "word", instruct, own_vectors(instruct, "sand"))
    samples = edited("put it on sand", severity=severity)
    plain, worded = (
        pixels(list(editor(instruct, adapters=words, guidance_scale=guidance)(samples))[-1]) for words in ((), (same,))
    )
    assert np.array_equal(plain, worded)


def test_the_word_is_drawn_in_place_of_its_value_and_of_nothing_else(instruct: Path, tmp_path: Path) -> None:
    word = adapter(tmp_path / "word", instruct, NOISE)
    texts = ("put it on sand", "put it on Sand!", "make it snow on the sand")
    samples = [*edited(*texts[:2]), replace(edited(texts[2], after="snow")[-1], key="a_other")]
    plain, worded = (
        {item.key: pixels(item) for item in editor(instruct, adapters=words)(samples)} for words in ((), (word,))
    )
    changed = {key for key, picture in plain.items() if not np.array_equal(picture, worded[key])}
    assert changed == {"a_cf0", "a_cf1"}


def test_severity_scales_a_learned_word(instruct: Path, tmp_path: Path) -> None:
    stage = editor(instruct, adapters=(adapter(tmp_path / "word", instruct, NOISE),), guidance_scale=1.0)
    pictures = [pixels(list(stage(edited("put it on sand", severity=each)))[-1]) for each in (0.25, 0.5, 1.0)]
    assert len({picture.tobytes() for picture in pictures}) == 3


def test_an_edit_whose_text_does_not_name_the_value_is_given_up(instruct: Path, tmp_path: Path) -> None:
    stage = editor(instruct, adapters=(adapter(tmp_path / "word", instruct, NOISE),))
    *_, good, bad = stage(edited("put it on sand", "put it on the sandy beach"))
    assert isinstance(good, Sample)
    assert isinstance(bad, Rejection)
    assert (bad.reason, "'sand'" in bad.detail) == ("no_learned_word", True)


def test_the_provenance_of_the_model_has_the_digest_of_each_word(instruct: Path, tmp_path: Path) -> None:
    word = adapter(tmp_path / "word", instruct, NOISE)
    made = list(editor(instruct, adapters=(word,))(edited("put it on sand")))[-1]
    assert isinstance(made, Sample)
    assert made.provenance["editor"]["model"]["adapters"] == {"sand": read_word(tmp_path / "word").digest}
    plain = list(editor(instruct)(edited("put it on sand")))[-1]
    assert isinstance(plain, Sample)
    assert "adapters" not in plain.provenance["editor"]["model"]


def test_other_texts_keep_the_bits_of_their_embeddings(instruct: Path, tmp_path: Path) -> None:
    embedded = []
    for words in ((), (adapter(tmp_path / "word", instruct, NOISE),)):
        pipeline = editor(instruct, adapters=words).pipeline
        tokens = pipeline.tokenizer("put it on sand", padding="max_length", return_tensors="pt").input_ids
        with torch.inference_mode():
            embedded.append(pipeline.text_encoder(tokens)[0])
    assert torch.equal(*embedded)


def test_a_word_goes_into_pipelines_that_are_drawn_in_batches_too(tmp_path: Path) -> None:
    model = save_stable_diffusion(tmp_path / "model", "img2img")
    word = adapter(tmp_path / "word", model, NOISE)
    plain, worded = (
        pixels(
            list(editor(model, method="img2img", scheduler="HeunDiscreteScheduler", adapters=words)(edited("on sand")))[
                -1
            ]
        )
        for words in ((), (word,))
    )
    assert not np.array_equal(plain, worded)


def test_a_word_of_another_model_is_refused(instruct: Path, tmp_path: Path) -> None:
    other = save_stable_diffusion(tmp_path / "other", "img2img")
    with pytest.raises(ModelError, match="a word is known to its own model alone"):
        editor(instruct, adapters=(adapter(tmp_path / "word", other, NOISE),))
    with pytest.raises(ModelError, match="vectors of 8 numbers, the editor of 32"):
        editor(instruct, adapters=(adapter(tmp_path / "word", instruct, NOISE[:, :8].copy()),))


def test_models_that_can_learn_no_words_are_refused(tmp_path: Path) -> None:
    xl = save_stable_diffusion_xl(tmp_path / "xl", "instruct")
    with pytest.raises(ModelError, match="has more than one text encoder"):
        editor(xl, adapters=(adapter(tmp_path / "word", xl, NOISE),))
    kontext = save_flux_kontext(tmp_path / "kontext")
    with pytest.raises(ModelError, match="use Stable Diffusion 1 or 2"):
        editor(kontext, size=32, adapters=(adapter(tmp_path / "word", kontext, NOISE),))


def test_two_words_for_one_value_are_refused() -> None:
    from engine.runfile.editor import EditorConfig

    words = [AdapterConfig(value="sand", path=path) for path in ("/one", "/two")]
    with pytest.raises(ValueError, match="several words for 'sand'"):
        EditorConfig(model=ModelConfig(name="zoo/editor"), adapters=words)
