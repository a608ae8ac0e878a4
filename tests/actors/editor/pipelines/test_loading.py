"""Pipelines from their files: what is refused before weights are read, and the size that a pipeline was made for."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_models import save_language_model
from tiny_pipelines import save_flux_2, save_qwen_image, save_stable_diffusion, save_z_image

from actors.editor.pipelines.loading import check_editor, load_pipeline, native_size
from actors.models.loading import ModelFiles
from engine.errors import ModelError
from engine.runfile.editor import EditorConfig
from engine.runfile.fields import ModelConfig

CPU = torch.device("cpu")


def files_in(folder: Path) -> ModelFiles:
    return ModelFiles(config=ModelConfig(name=folder.name), folder=str(folder))


def config(method: str) -> EditorConfig:
    masks = ModelConfig(name="masks") if method == "inpaint" else None
    return EditorConfig(model=ModelConfig(name="x"), method=method, mask_model=masks)


def test_a_method_that_a_model_cannot_do_is_refused_without_its_weights(tmp_path: Path) -> None:
    folder = save_flux_2(tmp_path / "flux2")
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    check_editor(config("instruct"), files_in(folder))
    with pytest.raises(ModelError, match="'x' is a Flux2Pipeline, which follows instructions: use method instruct"):
        check_editor(config("img2img"), files_in(folder))


def test_a_folder_without_a_pipeline_is_refused_by_the_check_too(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model_index\.json"):
        check_editor(config("img2img"), files_in(save_language_model(tmp_path)))


def test_a_unet_with_channels_for_a_mask_is_refused_for_img2img(tmp_path: Path) -> None:
    folder = save_stable_diffusion(tmp_path, "inpaint")
    check_editor(config("inpaint"), files_in(folder))
    with pytest.raises(ModelError, match="UNet of 9 input channels and 4 output channels, which img2img cannot use"):
        check_editor(config("img2img"), files_in(folder))


def test_z_image_s_own_size_is_1024_pixels(tmp_path: Path) -> None:
    pipeline, _ = load_pipeline(config("img2img"), files_in(save_z_image(tmp_path)), CPU)
    assert native_size(pipeline) == 1024


def test_a_pipeline_that_says_no_size_asks_for_one() -> None:
    pipeline = SimpleNamespace(unet=None, transformer=SimpleNamespace(config=SimpleNamespace()), vae_scale_factor=8)
    with pytest.raises(
        ModelError, match="SimpleNamespace does not say how large its pictures are: give the editor a s"
    ):
        native_size(pipeline)


def test_flux_2_needs_no_processor_of_pictures_for_its_texts(tmp_path: Path) -> None:
    """On the hub its tokenizer is a PixtralProcessor, which needs torchvision."""
    folder = save_flux_2(tmp_path / "flux2")
    index = json.loads((folder / "model_index.json").read_text())
    assert index["tokenizer"] == ["transformers", "PixtralProcessor"]
    pipeline, _ = load_pipeline(config("instruct"), files_in(folder), CPU)
    (tokens,) = pipeline.tokenizer.apply_chat_template(
        [[{"role": "user", "content": [{"type": "text", "text": "ab"}]}]], tokenize=True, return_dict=True
    )["input_ids"]
    assert pipeline.tokenizer.decode(tokens) == "<|user|>ab<|end|>"


def test_qwen_image_edit_loads_its_processor_without_videos(tmp_path: Path) -> None:
    folder = save_qwen_image(tmp_path / "edit", "QwenImageEditPipeline")
    assert "processor" in json.loads((folder / "model_index.json").read_text())
    pipeline, _ = load_pipeline(config("instruct"), files_in(folder), CPU)
    assert type(pipeline.processor.image_processor).__name__ == "Qwen2VLImageProcessorPil"
    shutil.rmtree(folder / "processor")
    with pytest.raises(ModelError, match="cannot load model 'edit' as a processor"):
        load_pipeline(config("instruct"), files_in(folder), CPU)
