"""Train the segmenter: a small CLIPSeg that finds a garment, or the thing beside it, by its name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPSegVisionConfig

from actors.zoo.recipes.training.language import clip_text_config, clip_tokenizer
from actors.zoo.recipes.training.loop import Loss, Recipe, TrainContext, save_half
from actors.zoo.recipes.training.pictures import garments_of, made_once, of_scenes, save_image_processor, to_tensor
from engine.wardrobe.garments import Garments
from engine.wardrobe.scene import LIGHTS, SIZE, Scene, make_scenes, render, thing_mask
from engine.wardrobe.things import THINGS

RECIPE = Recipe(
    name="segmenter", num_steps=10_000, learning_rate=1.5e-3, weight_decay=0.01, num_warmup_steps=200, seed=13
)
NUM_PICTURES = 24_000
# Of the pictures: with a thing beside the garment, and in another light than the photographs'.
WITH_THING, IN_OTHER_LIGHT = 7 / 8, 0.2
BATCH_SIZE = 32
PATCH = 8
WIDTH = 96
# Of the questions: for the garment, for the thing, and for a thing that is not there. Absent things come only after
# NUM_FIRST steps: asked from the start for what mostly is not there, a network finds nothing for long.
GARMENTS, THINGS_THERE, NUM_FIRST = 0.2, 0.5, 2000
SMOOTHING = 100.0  # pixels, of the Dice overlap


def make_segmenter() -> CLIPSegForImageSegmentation:
    """Return the untrained network: 64 patches of a picture, texts as those of editor and verifier."""
    vision = CLIPSegVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
    )
    text = clip_text_config(clip_tokenizer(), 1)
    return CLIPSegForImageSegmentation(
        CLIPSegConfig(
            text_config=text.to_dict(),
            vision_config=vision.to_dict(),
            projection_dim=WIDTH,
            extract_layers=[1, 2, 3],
            reduce_dim=64,
            decoder_num_attention_heads=4,
            decoder_intermediate_size=128,
        )
    )


def start_segmenter(context: TrainContext) -> tuple[nn.Module, Loss]:
    """Start on composites of garments that do not ship, most with a thing; the masks are true ones."""
    garments = garments_of("zoo", context.fashion_mnist)
    scenes = segmenter_scenes(garments)
    pictures = made_once(of_scenes(context.folder / "segmenter.npy", scenes), lambda: _pictures(scenes, garments))
    model, tokenizer = make_segmenter().to(context.device), clip_tokenizer()
    words = [*dict.fromkeys(scene.class_name for scene in scenes), *THINGS]
    tokens = tokenizer(words, padding=True, return_tensors="pt").to(context.device)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((RECIPE.seed, step))
        rows = np.sort(rng.choice(len(scenes), BATCH_SIZE, replace=False))
        asked, layers = zip(*(_question(scenes[row], rng, step) for row in rows), strict=True)
        chosen = torch.tensor([words.index(word) for word in asked])
        masks = torch.from_numpy(np.array(pictures[rows])[np.arange(BATCH_SIZE), :, :, list(layers)]).float() / 255
        images = to_tensor(pictures[rows][..., :3], context.device)
        if step % 2:
            images, masks = images.flip(-1), masks.flip(-1)
        output = model(
            pixel_values=images, input_ids=tokens.input_ids[chosen], attention_mask=tokens.attention_mask[chosen]
        )
        logits, masks = output.logits.float(), masks.to(context.device)
        found, true = logits > 0, masks > 0.5
        overlap = (found & true).sum() / (found | true).sum().clamp(min=1)
        cross_entropy = F.binary_cross_entropy_with_logits(logits, masks)
        return cross_entropy + _dice_loss(logits.sigmoid(), masks), {"overlap": float(overlap)}

    return model, loss


def save_segmenter(context: TrainContext, folder: Path) -> int:
    """Write the model folder from the last checkpoint; return the step it is from."""
    save_image_processor(folder, "ViTImageProcessor")
    return save_half(RECIPE, make_segmenter(), context, folder, tokenizer=clip_tokenizer())


def segmenter_scenes(garments: Garments) -> list[Scene]:
    """Return the composites."""
    num_bare = round(NUM_PICTURES * (1 - WITH_THING))
    scenes = [
        *make_scenes(garments, "segmenter", num_bare, seed=RECIPE.seed),
        *make_scenes(garments, "segmenter", NUM_PICTURES - num_bare, has_thing=True, seed=RECIPE.seed),
    ]
    rng = np.random.default_rng(RECIPE.seed)
    lights = [light for light in LIGHTS if light != "plain"]
    return [
        replace(scene, light=str(rng.choice(lights))) if rng.random() < IN_OTHER_LIGHT else scene for scene in scenes
    ]


def _dice_loss(shares: Tensor, masks: Tensor) -> Tensor:
    """Return 1 minus the soft Dice overlap (Milletari et al. 2016), smoothed, so that it asks for empty masks too.

    Cross-entropy alone leaves a thing of 150 pixels to the last: after 3,000 steps one in four was found.
    """
    both, sizes = (shares * masks).sum((1, 2)), shares.sum((1, 2)) + masks.sum((1, 2))
    return (1 - (2 * both + SMOOTHING) / (sizes + SMOOTHING)).mean()


def _question(scene: Scene, rng: np.random.Generator, step: int) -> tuple[str, int]:
    """Return a word and the layer of the true mask in `_pictures`: the garment's, the thing's, or an empty one."""
    draw = rng.random()
    if scene.thing and draw < THINGS_THERE:
        return scene.thing, 4
    if draw < THINGS_THERE + GARMENTS or step < NUM_FIRST:
        return scene.class_name, 3
    return str(rng.choice([thing for thing in THINGS if thing != scene.thing])), 5


def _pictures(scenes: list[Scene], garments: Garments) -> NDArray[np.uint8]:
    """Return (num_scenes, SIZE, SIZE, 6) uint8: red, green, blue, the garment's mask, the thing's, and an empty one."""
    layers = np.zeros((len(scenes), SIZE, SIZE, 6), np.uint8)
    for index, scene in enumerate(scenes):
        layers[index, ..., :3], layers[index, ..., 3] = render(scene, garments)
        layers[index, ..., 4] = thing_mask(scene)
    return layers
