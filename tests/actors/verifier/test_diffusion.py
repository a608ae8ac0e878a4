"""The signal `diffusion`: errors as diffusers trains on them, margins without neighbours, true classes that win."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from edited_groups import group
from PIL import Image
from pydantic import ValidationError
from tiny_models import jpeg
from tiny_pipelines import save_stable_diffusion, save_stable_diffusion_xl

from actors.models.device import fix_threads
from actors.verifier.signals.denoiser import Denoiser, Noised
from actors.verifier.verifier import Verifier
from engine.errors import ModelError
from engine.runfile.fields import ModelConfig
from engine.runfile.verifier import VerifierConfig
from engine.sample import Sample
from engine.sources.decode import encode_jpeg
from engine.wardrobe.garments import load_garments
from engine.wardrobe.scene import make_scenes, render

CPU = torch.device("cpu")
CLASSES = ("sneaker", "bag", "coat", "dress")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny model that draws from texts, and one that also sees a picture."""
    folder = tmp_path_factory.mktemp("diffusion")
    return {method: str(save_stable_diffusion(folder / method, method)) for method in ("img2img", "instruct")}


def verifier(model: str, classes: Sequence[str] = CLASSES, words: object = None, **settings: object) -> Verifier:
    signal = {"kind": "diffusion", "model": {"name": model}, "samples": [2, 5], "keep": [2], "unet_rows": 4}
    config = VerifierConfig.model_validate({"signals": {"label": signal | settings}, "batch_size": 4})
    return Verifier(config, CPU, name="verifier", offline=True, classes=classes, words=words or {})  # type: ignore[arg-type]


def scores(stage: Verifier, samples: Sequence[Sample]) -> dict[str, float]:
    judged = [item for item in stage(samples) if isinstance(item, Sample)]
    return {item.key: item.scores["label"] for item in judged if item.role != "source"}


@pytest.mark.parametrize("method", ["img2img", "instruct"])
def test_the_margin_of_an_edit_does_not_depend_on_its_neighbours(tiny: dict[str, str], method: str) -> None:
    stage = verifier(tiny[method])
    alone = scores(stage, group("a"))
    among = scores(stage, [*group("b", image=jpeg((1, 2, 3), seed=9)), *group("a"), *group("c")])
    assert alone.items() <= among.items()
    assert len(set(among.values())) == len(among)
    assert all(0 < abs(value) < 1 for value in among.values())


def test_an_edit_has_the_margin_of_its_own_class(tiny: dict[str, str]) -> None:
    stage = verifier(tiny["img2img"], CLASSES[:2])
    samples = group("a")
    other = [replace(sample, class_name="bag") for sample in samples]
    assert scores(stage, samples)["a_cf00"] == -scores(stage, other)["a_cf00"]


def test_most_classes_are_dropped_after_few_draws_and_the_own_one_never(
    tiny: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = verifier(tiny["img2img"])
    (*_, signal) = stage._looks[0].signals
    asked: list[int] = []
    errors = signal._model.errors
    monkeypatch.setattr(signal._model, "errors", lambda *parts: (asked.append(len(parts[2])), errors(*parts))[1])
    for name in CLASSES:
        scores(stage, [replace(sample, class_name=name) for sample in group("a") if sample.role != "placebo"])
    # Two draws for four classes, then three more for the own class and the two best others.
    assert asked == [8, 9] * len(CLASSES)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (("sneaker",), {}),
        ((), {}),
        (("bag", "coat"), {}),
        # Both are called alike: no word tells them apart.
        (("sneaker", "bag"), {"sneaker": ["thing"], "bag": ["thing"]}),
    ],
)
def test_without_another_class_the_margin_is_undefined(
    tiny: dict[str, str], classes: Sequence[str], words: object
) -> None:
    assert np.isnan(scores(verifier(tiny["img2img"], classes, words), group("a"))["a_cf00"])


def test_a_class_is_called_by_the_word_that_it_is_given(tiny: dict[str, str]) -> None:
    given = verifier(tiny["img2img"], ("n01", "bag"), {"n01": ["sneaker", "shoe"]})
    named = verifier(tiny["img2img"], ("sneaker", "bag"))
    samples = group("a")
    assert scores(given, [replace(each, class_name="n01") for each in samples]) == scores(named, samples)


def test_only_a_model_that_sees_a_picture_is_given_one(tiny: dict[str, str]) -> None:
    for method, is_equal in (("img2img", True), ("instruct", False)):
        edit, source = (
            scores(verifier(tiny[method], given=given), group("a"))["a_cf00"] for given in ("edit", "source")
        )
        assert (edit == source) == is_equal


@pytest.mark.parametrize("method", ["img2img", "instruct"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_errors_are_those_that_diffusers_trains_on(tmp_path: Path, method: str, prediction: str) -> None:
    import diffusers

    folder = save_stable_diffusion(tmp_path / "model", method)
    scheduler = diffusers.DDPMScheduler(prediction_type=prediction, steps_offset=1, clip_sample=False)
    scheduler.save_pretrained(folder / "scheduler")
    model = Denoiser(ModelConfig(name=str(folder)), CPU, num_rows=2, size=None, offline=True)
    assert (model.size, model.sees_picture) == (32, method == "instruct")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pictures = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    latents = list(model.latents(list(pictures)))
    texts = ["a photo of a bag", "a photo of a coat", "a photo of a hat"]
    embeddings = model.embeddings(texts)
    draws = [
        Noised(noise=torch.randn(latents[0].shape), timestep=timestep, embedding=embeddings[text])
        for timestep, text in zip((10, 500, 990), texts, strict=True)
    ]
    found = list(model.errors(latents[0], latents[1], draws))
    for draw, text, error in zip(draws, texts, found, strict=True):
        with torch.inference_mode():
            means = pipeline.vae.encode(2 * pictures - 1).latent_dist.mode()
            clean, noise = means[:1] * pipeline.vae.config.scaling_factor, draw.noise[None]
            timestep = torch.tensor([draw.timestep])
            rows = scheduler.add_noise(clean, noise, timestep)
            tokens = pipeline.tokenizer(text, padding="max_length", max_length=32, return_tensors="pt").input_ids
            inputs = torch.cat((rows, means[1:]), 1) if method == "instruct" else rows
            predicted = pipeline.unet(inputs, timestep, pipeline.text_encoder(tokens)[0]).sample
        wanted = {
            "epsilon": noise,
            "v_prediction": scheduler.get_velocity(clean, noise, timestep),
            "sample": clean,
        }[prediction]
        assert error == pytest.approx(float((predicted - wanted).square().mean()), rel=1e-4)


@pytest.mark.parametrize("save", ["inpaint", "xl", "clip"])
def test_a_model_of_another_kind_is_refused_before_its_weights_are_read(tmp_path: Path, save: str) -> None:
    from tiny_models import save_clip

    match save:
        case "inpaint":
            folder = save_stable_diffusion(tmp_path / "model", "inpaint")
        case "xl":
            folder = save_stable_diffusion_xl(tmp_path / "model", "img2img")
        case _:
            folder = save_clip(tmp_path / "model")
    for path in folder.rglob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(ModelError, match="a signal of kind diffusion wants a Stable Diffusion 1 or 2"):
        verifier(str(folder))


@pytest.mark.parametrize(
    "settings",
    [
        {"samples": [4, 16], "keep": []},
        {"samples": [4], "keep": [3]},
        {"samples": [16, 4]},
        {"samples": [2, 4, 8], "keep": [1, 2]},
        {"prompt": "a photo"},
        {"prompt": "{} beside {}"},
    ],
)
def test_stages_and_prompts_that_make_no_sense_are_refused(tiny: dict[str, str], settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        verifier(tiny["img2img"], **settings)


def test_the_true_class_wins_more_often_than_by_chance_on_pictures_that_no_model_has_seen() -> None:
    garments = load_garments("heldout")
    classes = ("trouser", "bag", "sneaker", "dress")
    scenes = [scene for scene in make_scenes(garments, "diffusion", 60) if scene.class_name in classes][:16]
    samples = []
    for scene in scenes:
        image = encode_jpeg(Image.fromarray(render(scene, garments)[0]))
        source, _, edit = group(scene.key)
        samples += [replace(each, image=image, class_name=scene.class_name) for each in (source, edit)]
    stage = verifier("zoo/editor", classes, samples=[6], keep=[], unet_rows=8)
    won = [value > 0 for value in scores(stage, samples).values()]
    # Of four classes one in four would win by chance: 9 of 16 or more in 1 of 130 times.
    assert sum(won) >= 9
