"""The zoo: its recipes resume exactly, and what ships is small, documented and of the form it says."""

import random
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from repository import ROOT
from torch import Tensor, nn

from actors.perturber.replies import Reply, parse_reply
from actors.zoo.recipes.backbone import attribute_scenes, make_backbone
from actors.zoo.recipes.captioner import make_captioner
from actors.zoo.recipes.edit_pairs import SHARES, draw_edits, draw_pair, editor_families
from actors.zoo.recipes.editor import make_editor
from actors.zoo.recipes.perturber import draw_exchange, make_perturber
from actors.zoo.recipes.training.language import TEXT_WIDTH, clip_tokenizer, text_tokenizer
from actors.zoo.recipes.training.loop import Recipe, TrainContext, train
from actors.zoo.recipes.vae import LATENT_CHANNELS, make_vae
from actors.zoo.recipes.verifier import make_verifier
from engine.wardrobe.garments import load_garments
from engine.wardrobe.scene import LIGHTS, Scene

MODELS = ROOT / "actors" / "zoo" / "models"
RECIPE = Recipe(name="line", num_steps=120, learning_rate=0.1, num_warmup_steps=5)


def fit_line(folder: Path, num_steps: int) -> dict[str, Tensor]:
    """Train y = 3x for some steps of the recipe, from the checkpoint in the folder if there is one."""
    torch.manual_seed(0)
    model = nn.Linear(1, 1)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x = torch.randn(8, 1, generator=generator)
        return (model(x).float() - 3 * x).square().mean(), {}

    context = TrainContext(folder=folder, device=torch.device("cpu"), fashion_mnist=folder)
    return dict(train(replace(RECIPE, num_steps=num_steps), model, loss, context).state_dict())


def test_a_stopped_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    whole.mkdir()
    halves.mkdir()
    expected = fit_line(whole, 120)

    class Stopped(Exception):
        pass

    torch.manual_seed(0)
    model = nn.Linear(1, 1)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        if step == 110:
            raise Stopped
        x = torch.randn(8, 1, generator=generator)
        return (model(x).float() - 3 * x).square().mean(), {}

    context = TrainContext(folder=halves, device=torch.device("cpu"), fashion_mnist=halves)
    with pytest.raises(Stopped):
        train(RECIPE, model, loss, context)
    resumed = fit_line(halves, 120)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


def changed(first: Scene, second: Scene) -> set[str]:
    return {
        name for name in ("garment", "colour", "background", "light") if getattr(first, name) != getattr(second, name)
    }


def test_an_edit_that_is_drawn_changes_what_its_kind_says_and_nothing_else() -> None:
    families = editor_families(load_garments("sources"))
    scenes = [scene for family in families for scene in family]
    for kind in SHARES:
        seen = set()
        for seed in range(100):
            family, first, second = draw_pair(np.random.default_rng(seed), kind, families)
            source, target = families[family][first], families[family][second]
            attribute = "light" if kind == "lighting" else kind
            assert changed(source, target) == (set() if kind == "placebo" else {attribute})
            assert kind != "garment" or source.label != target.label
            seen.add((family, first, second))
        assert len(seen) > 90
    rows, prompts, kinds = draw_edits(np.random.default_rng(0), families, 200)
    for (source, target), kind in zip(rows, kinds, strict=True):
        assert len(changed(scenes[source], scenes[target])) == (0 if kind == "placebo" else 1)
    assert all(prompts)


def test_light_says_nothing_of_the_class() -> None:
    scenes = attribute_scenes(load_garments("sources"), "light", 4000)
    lit = Counter(scene.label for scene in scenes if scene.light != "plain")
    assert {scene.light for scene in scenes} == set(LIGHTS)
    assert 0.15 < lit.total() / len(scenes) < 0.25
    assert min(lit[label] for label in range(10)) > 0.5 * max(lit.values())


def test_every_drawn_answer_is_a_valid_edit() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        drawn = draw_exchange(rng)
        answer = drawn.answer()
        caption, name, kind = (line.split(": ", 1)[1] for line in drawn.question.splitlines())
        # A label that the caption does not name cannot be guarded.
        if f" {name} " in f"{caption} ":
            assert isinstance(parse_reply(answer, caption=caption, words=[name], kind=kind), Reply), answer  # type: ignore[arg-type]


def test_tokenizers_take_any_text() -> None:
    text = 'a photo of a "réd" スニーカー\n{x}'
    exact = text_tokenizer(())
    assert exact.decode(exact(text).input_ids) == text
    ids = clip_tokenizer()(text, truncation=True).input_ids
    assert ids
    assert max(ids) < len(clip_tokenizer())


def test_the_models_that_ship_are_small_and_have_a_card() -> None:
    files = [path for path in MODELS.rglob("*") if path.is_file()]
    assert {path.name for path in MODELS.iterdir()} == {
        *("captioner", "editor", "patient", "patient_convnext", "perturber", "verifier", "eyes", "segmenter", "judge")
    }
    assert sum(path.stat().st_size for path in files) <= 44 * 2**20
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    for folder in MODELS.iterdir():
        card = (folder / "README.md").read_text()
        assert all(f"**{part}.**" in card for part in ("Data", "Recipe", "Figures", "Limits", "Licence"))
        assert "| figure " in card, f"the figures of {folder.name} are not filled: make zoo-eval cards"


def test_a_frozen_encoder_s_batch_statistics_stay(tmp_path: Path) -> None:
    encoder = nn.BatchNorm1d(2).requires_grad_(False)
    model = nn.Sequential(encoder, nn.Linear(2, 1))

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return model(torch.randn(8, 2, generator=generator) + 5).float().square().mean(), {}

    context = TrainContext(folder=tmp_path, device=torch.device("cpu"), fashion_mnist=tmp_path)
    train(replace(RECIPE, num_steps=3), model, loss, context)
    assert torch.equal(encoder.running_mean, torch.zeros(2))


def test_a_bigger_zoo_has_wider_models_of_the_same_kinds() -> None:
    clip, text = clip_tokenizer(), text_tokenizer(())
    for make in (
        make_vae,
        make_backbone,
        partial(make_editor, clip),
        partial(make_perturber, text),
        lambda size: make_captioner(text, make_backbone(size).backbone, size),
        lambda size: make_verifier(clip, make_backbone(size).backbone, size),
    ):
        small, large = (sum(value.numel() for value in make(size).parameters()) for size in (1, 2))
        assert 2 < large / small < 5
    unet = make_editor(clip, 2)["unet"]
    latents = torch.randn(1, 2 * LATENT_CHANNELS, 16, 16)
    words = torch.randn(1, 8, 2 * TEXT_WIDTH)
    assert unet(latents, 3, words).sample.shape == (1, LATENT_CHANNELS, 16, 16)
