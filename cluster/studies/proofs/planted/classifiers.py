"""The classifiers of the proofs, each trained in seconds on a pretrained image encoder."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, VisionEncoderDecoderModel

from actors.zoo import MODELS_FOLDER
from actors.zoo.recipes.patient import make_resnet, naming_loss, of_train_split
from actors.zoo.recipes.training.loop import Recipe, TrainContext, train
from engine.wardrobe.garments import Garments, load_garments
from engine.wardrobe.scene import Scene, make_scenes, render

RECIPE = Recipe(
    name="patient", num_steps=100, learning_rate=1e-3, weight_decay=0.02, num_warmup_steps=20, ema_decay=0.0
)

Pictures = NDArray[np.uint8]


def training_scenes(name: str, count: int, *, has_thing: bool = False) -> list[Scene]:
    """Return balanced composites of garments of the train split, with `has_thing` a thing beside each."""
    return of_train_split(make_scenes(load_garments("sources"), name, count, has_thing=has_thing))


def pictures_of(scenes: Iterable[Scene], garments: Garments) -> Pictures:
    """Return the composites' pictures, (num_scenes, 64, 64, 3) uint8."""
    return np.stack([render(scene, garments)[0] for scene in scenes])


def train_classifier(
    pictures: Pictures, labels: Sequence[int], seed: int, num_steps: int = RECIPE.num_steps
) -> PreTrainedModel:
    """Return a classifier trained on labelled pictures, (num_images, 64, 64, 3) uint8; it never resumes.

    It starts as the captioner's image encoder with a new head, which has no bias of class by background or colour.
    """
    recipe = replace(RECIPE, num_steps=num_steps, seed=seed)
    torch.manual_seed(seed)
    model = make_resnet()
    captioner = VisionEncoderDecoderModel.from_pretrained(MODELS_FOLDER / "captioner", use_safetensors=True)
    model.base_model.load_state_dict(captioner.encoder.state_dict())
    with TemporaryDirectory() as name:
        context = TrainContext(folder=Path(name), device=torch.device("cpu"), fashion_mnist=Path(name))
        train(recipe, model, naming_loss(model, pictures, labels, context), context)
    return model
