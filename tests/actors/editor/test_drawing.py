"""Drawing in slots against the pipelines of diffusers, family by family."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jobs import SIZE, job
from tiny_pipelines import save_stable_diffusion, save_stable_diffusion_xl

from actors.editor.pipelines.drawing import PipelineDrawing
from actors.editor.pipelines.jobs import EditJob
from actors.editor.pipelines.loading import load_pipeline
from actors.editor.samplers.trajectory import make_trajectory
from actors.editor.slots.autoencoder import Autoencoder
from actors.editor.slots.batcher import SlotBatcher
from actors.editor.slots.drawing import SlotDrawing, why_no_slots
from actors.editor.slots.steps import DenoiseJob, GuidanceTerm
from actors.editor.slots.texts import PromptCache
from actors.editor.slots.unet import UNet
from actors.models.device import fix_threads
from actors.models.files import resolve_model
from actors.models.untyped import Pipeline
from engine.runfile.editor import EditorConfig
from engine.runfile.fields import ModelConfig

CPU = torch.device("cpu")
MASK_MODEL = ModelConfig(name="unused")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)


def jobs(*, masked: bool, severities: tuple[float, ...]) -> list[EditJob]:
    return [job(seed, number, severity, masked=masked) for seed in (1, 2) for number, severity in enumerate(severities)]


FAMILIES: dict[str, tuple[Callable[[Path], Path], dict[str, object]]] = {
    "sd-instruct": (lambda folder: save_stable_diffusion(folder, "instruct"), {"method": "instruct"}),
    "sd-img2img": (lambda folder: save_stable_diffusion(folder, "img2img"), {"method": "img2img"}),
    "sd-inpaint-4": (lambda folder: save_stable_diffusion(folder, "img2img"), {"method": "inpaint"}),
    "sd-inpaint-9": (lambda folder: save_stable_diffusion(folder, "inpaint"), {"method": "inpaint"}),
    "xl-instruct": (lambda folder: save_stable_diffusion_xl(folder, "instruct"), {"method": "instruct"}),
    "xl-img2img": (lambda folder: save_stable_diffusion_xl(folder, "img2img"), {"method": "img2img"}),
    "xl-inpaint-4": (lambda folder: save_stable_diffusion_xl(folder, "img2img"), {"method": "inpaint"}),
}
SETTINGS: dict[str, dict[str, object]] = {
    "guided": {"guidance_scale": 4.0, "severities": (1.0, 0.5)},
    "plain": {"guidance_scale": 1.0, "severities": (1.0,)},
    "negative": {"guidance_scale": 4.0, "negative_prompt": "blurry", "severities": (1.0,)},
    "unipc": {"guidance_scale": 4.0, "scheduler": "UniPCMultistepScheduler", "severities": (1.0, 0.5)},
    "euler": {"guidance_scale": 4.0, "scheduler": "EulerDiscreteScheduler", "severities": (1.0, 0.5)},
    "whole": {"guidance_scale": 4.0, "strength": 1.0, "severities": (1.0,)},
}


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("setting", list(SETTINGS))
def test_slots_draw_what_the_pipeline_draws(family: str, setting: str, tmp_path: Path) -> None:
    save, changes = FAMILIES[family]
    check_like_pipeline(save(tmp_path / "model"), {**changes, **SETTINGS[setting]})


@pytest.mark.parametrize("method", ["instruct", "img2img", "inpaint"])
@pytest.mark.parametrize("setting", ["guided", "plain", "whole"])
def test_slots_draw_what_the_pipeline_draws_with_the_scheduler_of_stable_diffusion_1(
    method: str, setting: str, tmp_path: Path
) -> None:
    model = save_stable_diffusion(tmp_path / "model", "instruct" if method == "instruct" else "img2img", plms=True)
    check_like_pipeline(model, {"method": method, **SETTINGS[setting]})


@pytest.mark.parametrize("family", ["sd-inpaint-4", "sd-inpaint-9", "xl-inpaint-4"])
def test_each_edit_of_a_picture_is_drawn_in_its_own_region(family: str, tmp_path: Path) -> None:
    save, changes = FAMILIES[family]
    wanted = jobs(masked=True, severities=(1.0, 1.0))
    regions = [replace(each, mask=each.mask if number % 2 else 1 - each.mask) for number, each in enumerate(wanted)]
    check_like_pipeline(save(tmp_path / "model"), {**changes, "guidance_scale": 4.0}, regions)


def check_like_pipeline(model: Path, settings: dict[str, object], wanted: Sequence[EditJob] = ()) -> None:
    settings = dict(settings)
    severities: tuple[float, ...] = settings.pop("severities", ())  # type: ignore[assignment]
    wanted = wanted or jobs(masked=settings["method"] == "inpaint", severities=severities)
    if settings["method"] == "inpaint":
        settings["mask_model"] = MASK_MODEL
    config = EditorConfig(model=ModelConfig(name=str(model)), batch_size=4, num_inference_steps=6, **settings)
    pipeline, strategy = load_pipeline(config, resolve_model(config.model, offline=True), CPU)
    assert why_no_slots(pipeline) is None
    theirs = {job.sample.key: pixels for job, pixels in PipelineDrawing(pipeline, strategy, config).edits(wanted)}
    ours = {job.sample.key: pixels for job, pixels in SlotDrawing(pipeline, strategy, config, SIZE).edits(wanted)}
    assert ours.keys() == theirs.keys() == {item.sample.key for item in wanted}
    for key, pixels in ours.items():
        assert float((pixels - theirs[key]).abs().max()) < 1e-4, key
        assert float(pixels.std()) > 0.02, "a flat picture would say nothing"


def test_text_to_image_is_an_order_from_noise_alone(tmp_path: Path) -> None:
    import diffusers

    pipeline: Pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        save_stable_diffusion(tmp_path / "model", "img2img"), local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "a red shoe", num_inference_steps=6, guidance_scale=5.0, generator=torch.Generator().manual_seed(3),
        output_type="pt", height=SIZE, width=SIZE,
    ).images  # fmt: skip
    calls: Counter[str] = Counter()
    prompts = PromptCache(pipeline, size=SIZE, batch_size=2, calls=calls)
    vae = Autoencoder(pipeline, size=SIZE, batch_size=2, calls=calls, name="tiny")
    with torch.inference_mode():
        prompts.add(["a red shoe", None])
    wanted = DenoiseJob(
        key="a",
        latents=torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))[0],
        trajectory=make_trajectory(pipeline.scheduler, 6),
        guided=(
            GuidanceTerm(weight=-4.0, prompt=prompts[None]),
            GuidanceTerm(weight=5.0, prompt=prompts["a red shoe"]),
        ),
    )
    (result,) = SlotBatcher(denoise=UNet(pipeline, ModelConfig(name="x"), caches_features=False), num_rows=4).run(
        deque([wanted])
    )
    with torch.inference_mode():
        (ours,) = vae.decode([vae.unscaled(result.latents)])
    assert float((ours.clamp(0, 1) - theirs[0]).abs().max()) < 1e-4


def test_memory_that_runs_out_in_the_autoencoder_makes_its_batches_smaller_and_changes_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelConfig(name=str(save_stable_diffusion(tmp_path / "model", "instruct")))
    config = EditorConfig(model=model, num_inference_steps=2, decode_batch_size=4)
    pipeline, strategy = load_pipeline(config, resolve_model(config.model, offline=True), CPU)
    whole, limit = pipeline.vae.decode, 4

    def decode(latents: torch.Tensor, **settings: object) -> object:
        if len(latents) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(latents, **settings)

    monkeypatch.setattr(pipeline.vae, "decode", decode)
    drawing = SlotDrawing(pipeline, strategy, config, SIZE)
    wanted = jobs(masked=False, severities=(1.0, 0.5, 0.8))
    plenty = dict(pictures_of(drawing, wanted))
    limit = 3
    little = dict(pictures_of(drawing, wanted))
    assert drawing.record["decode_batch_size"] == 4
    assert all(torch.equal(plenty[key], little[key]) for key in plenty)
    assert SlotDrawing(pipeline, strategy, config, SIZE).record["decode_batch_size"] == 2


def pictures_of(drawing: SlotDrawing, wanted: Sequence[EditJob]) -> Iterator[tuple[str, torch.Tensor]]:
    for drawn, pixels in drawing.edits(wanted):
        assert pixels is not None
        yield drawn.sample.key, pixels


def test_an_inversion_is_made_once_for_all_edits_of_a_source(tmp_path: Path) -> None:
    config = EditorConfig(
        model=ModelConfig(name=str(save_stable_diffusion(tmp_path / "model", "img2img"))), method="img2img",
        inversion=True, strength=0.5, num_inference_steps=10, guidance_scale=3.0, batch_size=4,
    )  # fmt: skip
    pipeline, strategy = load_pipeline(config, resolve_model(config.model, offline=True), CPU)
    drawing = SlotDrawing(pipeline, strategy, config, SIZE)
    wanted = jobs(masked=False, severities=(1.0, 1.0, 1.0))
    found = {item.sample.key: pixels for item, pixels in drawing.edits(wanted)}
    assert drawing.calls["inversions"] == 2
    assert drawing.calls["useful_rows"] == 2 * 5 + 6 * 5 * 2
    (alone,) = [pixels for _, pixels in drawing.edits(wanted[4:5])]
    assert torch.equal(alone, found[wanted[4].sample.key])


def test_with_inversion_the_noise_is_the_source_s_own_whatever_the_seed(tmp_path: Path) -> None:
    model = ModelConfig(name=str(save_stable_diffusion(tmp_path / "model", "img2img")))
    (wanted,) = jobs(masked=False, severities=(1.0,))[:1]

    def draws_alike(*, inversion: bool) -> bool:
        config = EditorConfig(model=model, method="img2img", inversion=inversion, num_inference_steps=5)
        pipeline, strategy = load_pipeline(config, resolve_model(model, offline=True), CPU)
        pictures = [
            picture
            for seed in (1, 2)
            for _, picture in SlotDrawing(pipeline, strategy, config, SIZE).edits([replace(wanted, seed=seed)])
        ]
        return torch.equal(*pictures)

    assert draws_alike(inversion=True)
    assert not draws_alike(inversion=False)


def test_what_slots_cannot_run_is_named(tmp_path: Path) -> None:
    config = EditorConfig(
        model=ModelConfig(name=str(save_stable_diffusion(tmp_path / "model", "img2img"))), method="img2img",
        scheduler="HeunDiscreteScheduler",
    )  # fmt: skip
    pipeline, _ = load_pipeline(config, resolve_model(config.model, offline=True), CPU)
    assert "HeunDiscreteScheduler is none of DDIMScheduler" in (why_no_slots(pipeline) or "")
