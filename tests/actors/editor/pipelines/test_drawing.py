"""Whole batches: pictures have the size that was asked for, and are those of the pipeline called directly."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from edits import editor, group, pixels
from tiny_models import jpeg, save_clipseg
from tiny_pipelines import (
    save_chroma,
    save_flux,
    save_flux_2,
    save_flux_klein,
    save_latent_consistency,
    save_qwen_image,
    save_stable_diffusion,
    save_stable_diffusion_3,
    save_stable_diffusion_xl,
    save_z_image,
)

from actors.editor.strategies.families import FAMILIES, Family
from actors.images.codec import decode_rgb
from actors.images.frame import fit, to_tensor
from actors.models.device import fix_threads
from engine.errors import ModelError
from engine.runfile.fields import ModelConfig
from engine.sample import Sample

CAPTION, INSTRUCTION = "a red sneaker on 0", "put it on 0"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)


@pytest.fixture
def small_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Qwen-Image-Edit see its source at 64 * 64 pixels, not at 1024 * 1024."""
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus

    whole = pipeline_qwenimage_edit.calculate_dimensions
    monkeypatch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", lambda area, ratio: whole(64 * 64, ratio))
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "CONDITION_IMAGE_SIZE", 64 * 64)
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "VAE_IMAGE_SIZE", 64 * 64)


IMG2IMG: dict[str, tuple[Callable[[Path], Path], dict[str, object]]] = {
    "flux": (save_flux, {"guidance_scale": 3.0}),
    "sd3": (save_stable_diffusion_3, {"guidance_scale": 3.0}),
    "qwen": (save_qwen_image, {"true_cfg_scale": 3.0, "negative_prompt": [" "]}),
    "z-image": (save_z_image, {"guidance_scale": 3.0}),
    "chroma": (save_chroma, {"guidance_scale": 3.0}),
}


def drawn_directly(stage: object, source: Sample, seed: int, **arguments: object) -> np.ndarray:
    frame = to_tensor([fit(decode_rgb(source.image), stage.size)])
    with torch.inference_mode():
        (picture,) = stage.pipeline(
            **{"image": frame, **arguments}, height=stage.size, width=stage.size, num_inference_steps=2,
            generator=[torch.Generator().manual_seed(seed)], output_type="pt",
        ).images  # fmt: skip
    return (picture.clamp(0, 1) * 255).round().permute(1, 2, 0).byte().numpy()


@pytest.mark.parametrize("name", IMG2IMG)
def test_img2img_at_another_size_is_the_pipeline_s_own_picture_of_that_size(name: str, tmp_path: Path) -> None:
    save, arguments = IMG2IMG[name]
    stage = editor(save(tmp_path), method="img2img", size=48, batch_size=1, lossless=True)
    source, _, edit = stage(group("a"))
    assert pixels(edit).shape == (48, 48, 3)
    seed = edit.provenance["editor"]["seed"]
    wanted = drawn_directly(stage, source, seed, prompt=[CAPTION], strength=0.6, **arguments)
    assert np.array_equal(pixels(edit), wanted)


# A tiny model for each class that a checkpoint of a family in the table is saved as first.
MODELS: dict[str, Callable[[Path], Path]] = {
    "StableDiffusionInstructPix2PixPipeline": partial(save_stable_diffusion, method="instruct"),
    "StableDiffusionXLInstructPix2PixPipeline": partial(save_stable_diffusion_xl, method="instruct"),
    "FluxKontextPipeline": partial(save_flux, pipeline_class="FluxKontextPipeline"),
    "Flux2Pipeline": save_flux_2,
    "Flux2KleinPipeline": save_flux_klein,
    "QwenImageEditPipeline": partial(save_qwen_image, pipeline_class="QwenImageEditPipeline"),
    "QwenImageEditPlusPipeline": partial(save_qwen_image, pipeline_class="QwenImageEditPlusPipeline"),
    "StableDiffusionPipeline": partial(save_stable_diffusion, method="img2img"),
    "StableDiffusionXLPipeline": partial(save_stable_diffusion_xl, method="img2img"),
    "StableDiffusion3Pipeline": save_stable_diffusion_3,
    "StableDiffusionPAGPipeline": partial(save_stable_diffusion, method="img2img"),
    "StableDiffusionXLPAGPipeline": partial(save_stable_diffusion_xl, method="img2img"),
    "StableDiffusion3PAGPipeline": save_stable_diffusion_3,
    "FluxPipeline": save_flux,
    "QwenImagePipeline": save_qwen_image,
    "ZImagePipeline": save_z_image,
    "ChromaPipeline": save_chroma,
    "FluxFillPipeline": partial(save_flux, pipeline_class="FluxFillPipeline"),
    "LatentConsistencyModelPipeline": save_latent_consistency,
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.saved_as[0])
@pytest.mark.usefixtures("small_references")
def test_every_family_of_the_table_draws_at_the_editor_s_size(family: Family, tmp_path: Path) -> None:
    folder = MODELS[family.saved_as[0]](tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": family.saved_as[0]}))
    for method, drawing in family.drawn_by.items():
        changes: dict[str, object] = {"keep_detail": True}
        if method == "inpaint":
            masks = ModelConfig(name=str(save_clipseg(tmp_path / "masks")))
            changes = {"mask_model": masks, "inpaint_region": "class"}
        stage = editor(folder, method=method, size=64, batch_size=2, lossless=True, **changes)
        assert type(stage.pipeline).__name__ == drawing
        source, placebo, edit = stage(group("a", image=jpeg(size=(64, 48))))
        assert pixels(placebo).shape == pixels(edit).shape == (48, 64, 3)
        assert not np.array_equal(pixels(placebo), pixels(edit))
        assert not np.array_equal(pixels(edit), fit(decode_rgb(source.image), 64).pixels[8:56])


@pytest.mark.parametrize("save", [save_qwen_image, save_z_image, save_chroma])
def test_a_longer_text_beside_it_moves_no_bit_of_a_picture(save: Callable[[Path], Path], tmp_path: Path) -> None:
    stage = editor(save(tmp_path), method="img2img", size=48)
    source, placebo, edit = group("a")
    longer = replace(edit, key="a_cf01", edit=replace(edit.edit, caption=5 * edit.edit.caption))
    wanted = [(sample, sample.edit) for sample in (placebo, edit, longer)]
    jobs = list(stage._jobs([source, placebo, edit, longer], wanted, {}))
    together = {job.sample.key: picture for job, picture in stage.drawing.edits(jobs)}
    for job in jobs:
        ((_, alone),) = stage.drawing.edits([job])
        assert torch.equal(alone, together[job.sample.key])


@pytest.mark.parametrize("pipeline_class", ["QwenImageEditPipeline", "QwenImageEditPlusPipeline"])
@pytest.mark.usefixtures("small_references")
def test_qwen_image_edit_follows_the_instruction_under_true_guidance(pipeline_class: str, tmp_path: Path) -> None:
    from PIL import Image

    stage = editor(save_qwen_image(tmp_path, pipeline_class), size=48, lossless=True)
    source, _, edit = stage(group("a"))
    image = Image.fromarray(fit(decode_rgb(source.image), 48).pixels)
    arguments = {"image": image, "prompt": [INSTRUCTION], "true_cfg_scale": 3.0, "negative_prompt": [" "]}
    wanted = drawn_directly(stage, source, edit.provenance["editor"]["seed"], **arguments)
    assert np.array_equal(pixels(edit), wanted)
    *_, mild = stage(group("a", severity=0.5))
    wanted = drawn_directly(stage, source, edit.provenance["editor"]["seed"], **{**arguments, "true_cfg_scale": 2.0})
    assert np.array_equal(pixels(mild), wanted)


def test_flux_2_follows_the_instruction(tmp_path: Path) -> None:
    from PIL import Image

    stage = editor(save_flux_2(tmp_path), size=64, lossless=True)
    source, _, edit = stage(group("a"))
    image = Image.fromarray(fit(decode_rgb(source.image), 64).pixels)
    seed = edit.provenance["editor"]["seed"]
    wanted = drawn_directly(stage, source, seed, image=image, prompt=[INSTRUCTION], guidance_scale=3.0)
    assert np.array_equal(pixels(edit), wanted)


def test_what_a_pipeline_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Flux2Pipeline refuses its call: Image too small: 48.48\."):
        list(editor(save_flux_2(tmp_path), size=48)(group("a")))


def test_xl_in_whole_batches_draws_at_the_editor_s_size(tmp_path: Path) -> None:
    """Its instruct pipeline draws at its own size unless it is told another one."""
    stage = editor(save_stable_diffusion_xl(tmp_path, "instruct"), size=48, scheduler="DPMSolverSinglestepScheduler")
    *_, edit = stage(group("a"))
    assert edit.provenance["editor"]["batching"] == "batches"
    assert pixels(edit).shape == (48, 48, 3)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 3, 96, 96), (2, 1, 48, 48)])
def test_a_picture_of_another_shape_is_refused_with_both_shapes(
    shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = editor(save_flux(tmp_path), method="img2img", size=48, batch_size=2)
    returned(monkeypatch, stage, torch.zeros(shape))
    seen = "x".join(map(str, shape[1:]))
    with pytest.raises(ModelError, match=rf"FluxImg2ImgPipeline drew a picture of {seen} .* 3x48x48 was asked for"):
        list(stage(group("a")))


def test_fewer_pictures_than_edits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = editor(save_flux(tmp_path), method="img2img", size=48, batch_size=2)
    returned(monkeypatch, stage, torch.zeros(1, 3, 48, 48))
    with pytest.raises(ModelError, match="FluxImg2ImgPipeline drew 1 pictures for 2 edits"):
        list(stage(group("a")))


def test_a_picture_of_another_shape_out_of_the_slots_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = editor(save_stable_diffusion(tmp_path, "img2img"), method="img2img")
    decode = stage.drawing._vae.decode
    monkeypatch.setattr(stage.drawing._vae, "decode", lambda latents: [each[:, :16] for each in decode(latents)])
    with pytest.raises(ModelError, match=r"drew a picture of 3x16x32 .* where 3x32x32 was asked for"):
        list(stage(group("a")))


def returned(monkeypatch: pytest.MonkeyPatch, stage: object, pictures: torch.Tensor) -> None:
    """Let the pipeline of a stage return these pictures."""
    from types import SimpleNamespace

    kind = type(stage.pipeline)
    monkeypatch.setattr(kind, "__call__", lambda self, **arguments: SimpleNamespace(images=pictures))
