import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from edits import CPU, editor, group, pixels
from PIL import Image
from tiny_models import jpeg, save_clipseg, save_language_model
from tiny_pipelines import (
    save_flux,
    save_flux_klein,
    save_flux_kontext,
    save_stable_diffusion,
    save_stable_diffusion_xl,
)

from actors.editor.editor import Editor
from actors.editor.pipelines.detail import with_detail
from actors.editor.strategies.img2img import Img2Img
from actors.images.codec import decode_rgb, encode_jpeg
from actors.images.frame import fit
from actors.models.device import fix_threads
from engine.errors import ModelError, RunFileError
from engine.runfile.editor import EditorConfig
from engine.runfile.fields import ModelConfig
from engine.sample import PLACEBO_INSTRUCTION, Edit, Rejection, Sample
from engine.wardrobe.garments import load_garments
from engine.wardrobe.scene import caption, make_scenes, render


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def instruct(models: Path) -> Path:
    return save_stable_diffusion(models / "sd-instruct", "instruct")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)


PIPELINES: list[tuple[Callable[[Path], Path], dict[str, object]]] = [
    (lambda folder: save_stable_diffusion(folder, "instruct"), {"method": "instruct"}),
    (
        lambda folder: save_stable_diffusion(folder, "instruct"),
        {"method": "instruct", "scheduler": "UniPCMultistepScheduler", "num_inference_steps": 4, "keep_detail": True},
    ),
    (lambda folder: save_stable_diffusion(folder, "img2img"), {"method": "img2img"}),
    (lambda folder: save_stable_diffusion(folder, "img2img"), {"method": "img2img", "inversion": "edit_friendly"}),
    (lambda folder: save_stable_diffusion(folder, "img2img"), {"method": "inpaint"}),
    (lambda folder: save_stable_diffusion(folder, "inpaint"), {"method": "inpaint"}),
    (lambda folder: save_stable_diffusion_xl(folder, "instruct"), {"method": "instruct"}),
    (lambda folder: save_stable_diffusion_xl(folder, "img2img"), {"method": "img2img", "keep_detail": True}),
    (save_flux_kontext, {"method": "instruct", "size": 32, "keep_detail": True}),
    (save_flux_klein, {"method": "instruct", "size": 64, "keep_detail": True}),
    (save_flux, {"method": "img2img", "size": 48, "keep_detail": True}),
    (lambda folder: save_flux(folder, "FluxFillPipeline"), {"method": "inpaint", "size": 48}),
]
NAMES = [
    "sd-instruct", "sd-instruct-unipc", "sd-img2img", "sd-img2img-inverted", "sd-inpaint-4", "sd-inpaint-9",
    "xl-instruct", "xl-img2img", "kontext", "klein", "flux-img2img", "flux-fill",
]  # fmt: skip


@pytest.mark.parametrize(("save", "changes"), PIPELINES, ids=NAMES)
def test_a_row_is_bit_identical_alone_and_in_a_full_batch(
    save: Callable[[Path], Path], changes: dict[str, object], tmp_path: Path
) -> None:
    if changes["method"] == "inpaint":
        changes = {**changes, "mask_model": ModelConfig(name=str(save_clipseg(tmp_path / "clipseg")))}
    stage = editor(save(tmp_path / "model"), **changes)
    groups = [group("a", num_edits=2), group("b", num_edits=3)]
    together = {item.key: item for item in stage([sample for samples in groups for sample in samples])}
    for source, *_, edit in groups:
        assert together[source.key] is source
        (alone,) = list(stage([source, edit]))[1:]
        assert alone == together[edit.key]
        assert pixels(alone).shape[0] == stage.size
    pictures = {item.image for item in together.values() if isinstance(item, Sample)}
    assert len(pictures) > 2 * len(groups)  # so the rows differ, and equality above says something


def test_a_source_and_its_edits_share_noise_and_groups_do_not(instruct: Path) -> None:
    stage = editor(instruct)
    results = [item for item in stage([*group("a"), *group("b")]) if isinstance(item, Sample) and item.edit]
    seeds = [item.provenance["editor"]["seed"] for item in results]
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]


def test_bfloat16_is_as_reproducible(instruct: Path) -> None:
    stage = editor(instruct, model=ModelConfig(name=str(instruct), dtype="bfloat16"))
    together = list(stage([*group("a", num_edits=2), *group("b")]))
    assert list(stage(group("b"))) == together[4:]


def test_provenance_names_everything_that_made_the_image(instruct: Path) -> None:
    _, _, edited = editor(instruct, attention="sdpa")(group("a", severity=0.5))
    assert isinstance(edited, Sample)
    record = edited.provenance["editor"]
    assert record["model"]["name"] == instruct.name
    assert record["scheduler"] == "DDIMScheduler"
    assert record["attention"] == "AttnProcessor2_0"
    assert (record["num_inference_steps"], record["guidance_scale"], record["image_guidance_scale"]) == (2, 2.0, 1.5)
    assert record["diffusers"]
    assert record["torch"] == torch.__version__


def test_another_scheduler_draws_other_pictures_and_is_named(instruct: Path) -> None:
    _, _, own = editor(instruct)(group("a"))
    _, _, other = editor(instruct, scheduler="UniPCMultistepScheduler")(group("a"))
    assert isinstance(own, Sample)
    assert isinstance(other, Sample)
    assert other.provenance["editor"]["scheduler"] == "UniPCMultistepScheduler"
    assert other.image != own.image


def test_a_scheduler_that_the_model_cannot_use_is_refused(instruct: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no scheduler 'UniPC': leave it out, or name one of .*'UniPCMultistepSch"):
        editor(instruct, scheduler="UniPC")
    kontext = save_flux_kontext(tmp_path / "kontext")
    with pytest.raises(ModelError, match=r"or name one of \['FlowMatchEulerDiscreteScheduler'\]"):
        editor(kontext, size=32, scheduler="DDIMScheduler")


def test_detail_comes_back_where_an_edit_changes_nothing() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 64)
    reconstructed = 0.8 * images + 0.1  # an autoencoder that loses contrast
    edited = reconstructed.clone()
    edited[:, :, :, 32:] = 0.5  # the right half is new
    result = with_detail(edited, images, reconstructed)
    assert torch.allclose(result[..., :28], images[..., :28], atol=1e-6)
    assert torch.equal(result[..., 36:], edited[..., 36:])
    assert torch.equal(with_detail(edited[:1], images[:1], reconstructed[:1]), result[:1])


def test_what_is_not_finite_stays_so() -> None:
    for value in (torch.nan, torch.inf):
        edited = torch.full((1, 3, 64, 64), value)
        assert not torch.isfinite(with_detail(edited, torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64))).any()


def test_a_source_and_a_text_are_encoded_once_for_all_edits(instruct: Path) -> None:
    stage = editor(instruct, keep_detail=True)
    made = [item for item in stage([*group("a", num_edits=4), *group("b", num_edits=4)]) if isinstance(item, Sample)]
    assert len({item.image for item in made}) == 12
    # Five instructions, the same for both sources, and none; ten edits and two sources without any.
    assert stage.calls["encoded"] == 2
    assert stage.calls["prompts"] == 6
    assert stage.calls["decoded"] == 12


def test_with_detail_the_zoo_s_placebo_is_nearer_to_its_source() -> None:
    scenes = list(make_scenes(load_garments("sources"), "detail", 8))
    samples = []
    for scene in scenes:
        image = encode_jpeg(render(scene, load_garments("sources"))[0], 95)
        source = Sample(
            key=scene.key, source_key=scene.key, role="source", image=image, label=scene.label,
            class_name=scene.class_name, split="train", caption=caption(scene),
        )  # fmt: skip
        edit = Edit(
            kind="placebo", before=caption(scene), after=caption(scene), instruction=PLACEBO_INSTRUCTION,
            caption=caption(scene),
        )  # fmt: skip
        samples += [source, replace(source, key=f"{scene.key}_pl", role="placebo", image=b"", edit=edit)]

    def distance(*, keep_detail: bool) -> float:
        config = EditorConfig(
            model=ModelConfig(name="zoo/editor"), num_inference_steps=8, guidance_scale=1, image_guidance_scale=1,
            batch_size=8, keep_detail=keep_detail,
        )  # fmt: skip
        made = list(Editor(config, CPU, name="editor", seed=0, offline=True)(samples))
        pairs = zip(made[::2], made[1::2], strict=True)
        return float(np.mean([np.abs(pixels(a).astype(float) - pixels(b)).mean() for a, b in pairs]))

    assert distance(keep_detail=True) < 0.5 * distance(keep_detail=False)


def img2img(num_inference_steps: int) -> Img2Img:
    return Img2Img(
        loader="StableDiffusionImg2ImgPipeline", is_batched=True, guidance_scale=5, negative_prompt=None,
        has_true_guidance=False, strength=0.8, num_inference_steps=num_inference_steps,
    )  # fmt: skip


def test_severity_scales_strength_or_guidance(instruct: Path) -> None:
    assert img2img(10).settings(0.5) == {"guidance_scale": 5, "strength": 0.4}
    stage = editor(instruct, guidance_scale=5)
    assert stage.strategy.settings(0.5) == {"guidance_scale": 3, "image_guidance_scale": 1.5}
    (_, _, mild), (_, _, whole) = (editor(instruct)(group("a", severity=severity)) for severity in (0.1, 1.0))
    assert not np.array_equal(pixels(mild), pixels(whole))


def test_without_guidance_severity_walks_from_the_placebo_to_the_edit(instruct: Path) -> None:
    stage = editor(instruct, guidance_scale=1.0, jpeg_quality=100)
    results = {severity: list(stage(group("a", severity=severity))) for severity in (0.001, 0.5, 1.0)}
    placebo = pixels(results[1.0][1]).astype(int)
    moved = [np.abs(pixels(results[severity][2]).astype(int) - placebo).mean() for severity in results]
    assert moved[0] < moved[1] < moved[2]
    assert moved[0] < 0.1 * moved[2]
    row = [item for item in stage(group("a", severity=0.5)) if item.key == "a_cf00"]
    assert row == [results[0.5][2]]


def test_a_milder_edit_that_cannot_be_is_refused(models: Path) -> None:
    stage = editor(save_stable_diffusion_xl(models / "xl-mild", "instruct"), guidance_scale=1.0)
    *_, mild = stage(group("a", severity=0.5))
    assert isinstance(mild, Rejection)
    assert mild.reason == "no_severity"
    assert "raise guidance_scale" in mild.detail
    *_, whole = stage(group("a", severity=1.0))
    assert isinstance(whole, Sample)


@pytest.mark.parametrize("steps", [3, 7, 49])
def test_the_mildest_edit_still_takes_a_step(steps: int) -> None:
    assert int(steps * img2img(steps).settings(1e-6)["strength"]) == 1


def test_inpainting_keeps_the_other_side_of_the_mask(models: Path) -> None:
    folder, masks = (
        save_stable_diffusion(models / "inpaint", "inpaint"),
        ModelConfig(name=str(save_clipseg(models / "seg"))),
    )
    stage = editor(folder, method="inpaint", mask_model=masks, strength=1.0, jpeg_quality=100)
    source, _, edit = group("a", image=jpeg(seed=3))
    frame = fit(decode_rgb(source.image), 32)
    found = stage.masks({source.key: frame}, [(edit, edit.edit)])[edit.key]
    assert not isinstance(found, str), "the random mask model must split the picture for this test"
    (result,) = list(stage([source, edit]))[1:]
    kept = found[0].numpy() == 0
    change = np.abs(pixels(result).astype(int) - frame.pixels).max(axis=2)
    assert np.median(change[kept]) <= 8 < np.median(change[~kept])


def test_a_mask_that_leaves_nothing_to_redraw_is_a_rejection(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, masks = (
        save_stable_diffusion(models / "inpaint2", "inpaint"),
        ModelConfig(name=str(save_clipseg(models / "seg2"))),
    )
    monkeypatch.setattr("actors.regions.samples.THRESHOLD", 1.0)
    _, placebo, edit = editor(folder, method="inpaint", mask_model=masks)(group("a"))
    for item in (placebo, edit):
        assert isinstance(item, Rejection)
        assert (item.reason, item.stage) == ("no_mask", "editor")
        assert "'sneaker' nowhere in the picture: nothing is left to change or to keep" in item.detail


def test_a_picture_keeps_its_shape(instruct: Path) -> None:
    _, placebo, edit = editor(instruct)(group("a", image=jpeg(size=(48, 24))))
    assert pixels(placebo).shape == pixels(edit).shape == (16, 32, 3)


def test_an_extreme_shape_still_fits() -> None:
    assert fit(Image.new("RGB", (4000, 1)), 32).height == 1


def test_unreadable_and_missing_sources_are_rejections(instruct: Path) -> None:
    stage = editor(instruct)
    source, placebo, edit = group("a", image=b"no image")
    unreadable = list(stage([source, placebo, edit]))
    assert unreadable[0] is source
    assert {item.reason for item in unreadable[1:] if isinstance(item, Rejection)} == {"no_source_image"}
    (orphan,) = stage([edit])
    assert isinstance(orphan, Rejection)
    assert "did not come along" in orphan.detail


def test_pixels_that_are_no_numbers_are_a_rejection(instruct: Path) -> None:
    stage = editor(instruct)
    with torch.no_grad():
        stage.pipeline.vae.decoder.conv_out.bias.fill_(float("nan"))
    _, placebo, edit = stage(group("a"))
    assert isinstance(placebo, Rejection)
    assert isinstance(edit, Rejection)
    assert edit.reason == "not_finite"


def test_samples_that_have_an_image_are_left_alone(instruct: Path) -> None:
    samples = [replace(sample, image=jpeg()) for sample in group("a")]
    assert list(editor(instruct)(samples)) == samples


def test_a_model_that_follows_no_instructions_is_refused(models: Path, instruct: Path) -> None:
    plain = save_stable_diffusion(models / "plain", "img2img")
    with pytest.raises(ModelError, match="StableDiffusionPipeline, which follows no instructions"):
        editor(plain)
    with pytest.raises(ModelError, match="use method instruct"):
        editor(instruct, method="img2img")


def test_a_model_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model_index\.json"):
        editor(save_language_model(tmp_path))


def test_a_size_that_the_model_cannot_take_is_refused(instruct: Path) -> None:
    with pytest.raises(RunFileError, match=r"stages\.editor\.size is 33: .* multiple of 2"):
        editor(instruct, size=33)


def test_inpainting_without_a_mask_model_is_refused() -> None:
    with pytest.raises(ValueError, match="mask_model goes with method inpaint"):
        EditorConfig(model=ModelConfig(name="x"), method="inpaint")


@pytest.mark.parametrize(("edge", "sampling"), [(255, 0), (256, 2)])
def test_small_pictures_keep_full_colour(edge: int, sampling: int) -> None:
    from PIL import JpegImagePlugin

    data = encode_jpeg(np.zeros((edge, edge, 3), dtype=np.uint8), 95)
    with Image.open(io.BytesIO(data)) as image:
        assert JpegImagePlugin.get_sampling(image) == sampling
