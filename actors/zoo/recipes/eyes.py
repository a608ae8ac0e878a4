"""Train the second pair of eyes: an encoder that knows a garment again on other grounds, in other colours and light.

It sees pictures alone, no class and no words, and shares no weights with the verifier. Two composites of one garment in
one place are a pair, those of the other garments of a batch are its negatives (InfoNCE: van den Oord et al. 2018; the
symmetric form with cosines and a temperature: Chen et al. 2020, SimCLR).
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel

from actors.finetune.augment import gaussian_blurred
from actors.zoo.recipes.training.loop import Loss, Recipe, TrainContext, save_half
from actors.zoo.recipes.training.pictures import garments_of, rendered, save_image_processor, to_tensor
from engine.wardrobe.scene import BACKGROUNDS, COLOURS, LIGHTS, Scene, make_scenes

RECIPE = Recipe(name="eyes", num_steps=3000, learning_rate=2e-3, weight_decay=0.05, num_warmup_steps=100, seed=11)
NUM_PAIRS = 30_000
BATCH_SIZE = 96
TEMPERATURE = 0.1
# Of the editor's pictures some are softer than a composite: a blur of up to so many pixels, and noise.
MOST_BLUR, NOISE = 1.0, 0.03
RADIUS = 2


def make_eyes() -> ResNetModel:
    """Return the untrained encoder, narrower than the verifier's."""
    return ResNetModel(
        ResNetConfig(embedding_size=24, hidden_sizes=[24, 48, 96, 128], depths=[1, 1, 1, 1], layer_type="basic")
    )


def start_eyes(context: TrainContext) -> tuple[nn.Module, Loss]:
    """Start on pairs of composites of garments that do not ship."""
    garments = garments_of("zoo", context.fashion_mnist)
    scenes = list(make_scenes(garments, "eyes", NUM_PAIRS, seed=RECIPE.seed))
    rng = np.random.default_rng(RECIPE.seed)
    others = [_redrawn(scene, rng) for scene in scenes]
    pairs = [rendered(context.folder / f"{name}.npy", each, garments) for name, each in
             (("eyes", scenes), ("eyes_others", others))]  # fmt: skip
    model = make_eyes().to(context.device)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((RECIPE.seed, step))
        # No garment twice in a batch, where it would be its own negative.
        drawn = rng.choice(NUM_PAIRS, 2 * BATCH_SIZE, replace=False)
        _, first = np.unique([scenes[row].garment for row in drawn], return_index=True)
        rows = np.sort(drawn[np.sort(first)[:BATCH_SIZE]])
        pixels = torch.cat([to_tensor(pictures[rows], context.device) for pictures in pairs])
        with context.autocast():
            features = model(_softened(pixels, generator)).pooler_output.flatten(1)
        own, other = F.normalize(features.float(), dim=1).chunk(2)
        logits = own @ other.T / TEMPERATURE
        targets = torch.arange(len(rows), device=context.device)
        right = float((logits.argmax(1) == targets).float().mean())
        return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2, {"right": right}

    return model, loss


def save_eyes(context: TrainContext, folder: Path) -> int:
    """Write the model folder from the last checkpoint; return the step it is from."""
    save_image_processor(folder, "ViTImageProcessor")
    return save_half(RECIPE, make_eyes(), context, folder)


def _redrawn(scene: Scene, rng: np.random.Generator) -> Scene:
    """Return the same garment in the same place, its ground, colour and light drawn anew."""
    return replace(
        scene,
        background=str(rng.choice(BACKGROUNDS)),
        colour=str(rng.choice(list(COLOURS))),
        light=str(rng.choice(list(LIGHTS))),
    )


def _softened(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures, each blurred by a draw of its own, and with noise."""
    sigmas = MOST_BLUR * torch.rand(len(pixels), generator=generator)
    noise = NOISE * torch.randn(pixels.shape, generator=generator).to(pixels.device)
    return gaussian_blurred(pixels, sigmas, RADIUS) + noise
