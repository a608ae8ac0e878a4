"""Train the patient: a small ResNet on biased composites, whose planted weakness is the background."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import ResNetConfig, ResNetForImageClassification

from actors.zoo.pictures import garments_of, rendered, save_image_processor, to_tensor
from actors.zoo.training import Recipe, Workshop, averaged, train
from engine.runfile import Splits
from engine.splits import split_of
from engine.wardrobe.garments import CLASSES, Garments
from engine.wardrobe.scene import BACKGROUNDS, OWN_BACKGROUND, Scene, make_scenes

RECIPE = Recipe(name="patient", num_steps=600, learning_rate=1e-3, weight_decay=0.02, ema_decay=0.99)
CORRELATION = 0.95
NUM_PICTURES = 8_000
BATCH_SIZE = 64
# The demo's splits: the patient has not seen the garments of the validation split either.
SPLITS = Splits(train=0.8, validation=0.2, test=0.0)


def make_patient() -> ResNetForImageClassification:
    """Return the untrained classifier."""
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=32,
            hidden_sizes=[32, 64, 128, 256],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            id2label=dict(enumerate(CLASSES)),
            label2id={name: index for index, name in enumerate(CLASSES)},
        )
    )


def train_patient(workshop: Workshop, num_steps: int | None = None) -> None:
    """Train the patient on biased composites of garments that ship, train split only."""
    _train(replace(RECIPE, num_steps=num_steps or RECIPE.num_steps), CORRELATION, workshop)


def train_oracle(workshop: Workshop, num_steps: int | None = None) -> None:
    """Train what the patient could have been: the same model on balanced composites of the same garments."""
    _train(replace(RECIPE, name="oracle", num_steps=num_steps or RECIPE.num_steps), None, workshop)


def save_patient(workshop: Workshop, folder: Path) -> int:
    """Write the model folder from the last checkpoint; return the step it is from."""
    model = make_patient()
    step = averaged(RECIPE, model, workshop)
    model.to(torch.float16).save_pretrained(folder)
    save_image_processor(folder, "ViTImageProcessor")
    return step


def score(name: str, workshop: Workshop) -> dict[str, float]:
    """Return the accuracies of the patient or the oracle on held-out garments, biased and balanced."""
    model = make_patient()
    averaged(replace(RECIPE, name=name), model, workshop)
    garments = garments_of("heldout", workshop.fashion_mnist)
    biased = list(make_scenes(garments, "heldout", 2000, correlation=CORRELATION))
    balanced = list(make_scenes(garments, "heldout", 8000))
    right = _right(model, balanced, rendered(workshop.folder / "heldout-balanced.npy", balanced, garments))
    on_own = np.array([scene.background == OWN_BACKGROUND[scene.label] for scene in balanced])
    groups = np.array([scene.label * 8 + BACKGROUNDS.index(scene.background) for scene in balanced])
    return {
        "biased": float(
            _right(model, biased, rendered(workshop.folder / "heldout-biased.npy", biased, garments)).mean()
        ),
        "balanced": float(right.mean()),
        "aligned": float(right[on_own].mean()),
        "conflict": float(right[~on_own].mean()),
        "worst_group": float(min(right[groups == group].mean() for group in np.unique(groups))),
    }


def patient_scenes(garments: Garments, correlation: float | None) -> list[Scene]:
    """Return the composites of the train split, the same ones that the demo's run file reads."""
    scenes = make_scenes(garments, "sources", NUM_PICTURES, correlation=correlation)
    return [scene for scene in scenes if split_of(f"garment:sources-{scene.garment}", SPLITS, 0) == "train"]


def _train(recipe: Recipe, correlation: float | None, workshop: Workshop) -> None:
    garments = garments_of("sources", workshop.fashion_mnist)
    scenes = patient_scenes(garments, correlation)
    pictures = rendered(workshop.folder / f"{recipe.name}.npy", scenes, garments)
    labels = torch.tensor([scene.label for scene in scenes])
    torch.manual_seed(recipe.seed)
    model = make_patient().to(workshop.device)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(len(scenes), (BATCH_SIZE,), generator=generator)
        images = to_tensor(pictures[rows.numpy()], workshop.device)
        if step % 2:
            images = images.flip(-1)
        logits = model(pixel_values=images).logits.float()
        return F.cross_entropy(logits, labels[rows].to(workshop.device)), {}

    train(recipe, model, loss, workshop)


def _right(model: ResNetForImageClassification, scenes: list[Scene], pictures: NDArray[np.uint8]) -> NDArray[np.bool_]:
    device = torch.device("cpu")
    with torch.no_grad():
        parts = [
            model(pixel_values=to_tensor(pictures[start : start + 250], device)).logits.argmax(1).numpy()
            for start in range(0, len(scenes), 250)
        ]
    right: NDArray[np.bool_] = np.concatenate(parts) == np.array([scene.label for scene in scenes])
    return right
