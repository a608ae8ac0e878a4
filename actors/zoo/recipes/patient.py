"""Train the biased classifiers, zoo/patient and zoo/patient_convnext, whose planted weakness is the background.

As in practice, each is pretrained on other data, where it learns the garments, then fine-tuned on biased pictures.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    PreTrainedModel,
    ResNetForImageClassification,
)

from actors.zoo.recipes.backbone import AttributeClassifier, attribute_loss, backbone_pictures, resnet_config
from actors.zoo.recipes.training.loop import Loss, Recipe, TrainContext, averaged, save_half
from actors.zoo.recipes.training.pictures import in_parts, rendered, save_image_processor, to_tensor
from engine.figures.figures import Figure, share
from engine.plan.splits import split_of
from engine.runfile.data import Splits
from engine.wardrobe.garments import CLASSES, Garments, load_garments
from engine.wardrobe.scene import BACKGROUNDS, OWN_BACKGROUND, Scene, make_scenes, render

PRETRAINING = Recipe(
    name="pretrained", num_steps=5000, learning_rate=2e-3, weight_decay=0.05, num_warmup_steps=200, seed=3
)
RECIPE = Recipe(
    name="patient", num_steps=300, learning_rate=1e-3, weight_decay=0.02, num_warmup_steps=50, ema_decay=0.99
)
# The fewer exceptions, the less a pretrained network trusts the garment: .30 right in conflict at .995, .23 at .998.
CORRELATION = 0.998
NUM_PICTURES = 8_000
BATCH_SIZE = 64
LABELS: dict[str, Any] = {
    "id2label": dict(enumerate(CLASSES)),
    "label2id": {name: index for index, name in enumerate(CLASSES)},
}
# The demo's splits: the classifier has not seen the garments of the validation split either.
SPLITS = Splits(train=0.8, validation=0.2, test=0.0)


def make_resnet() -> PreTrainedModel:
    """Return an untrained residual network."""
    return ResNetForImageClassification(resnet_config(**LABELS))


def make_convnext() -> PreTrainedModel:
    """Return an untrained ConvNeXt: no batch norm, wide kernels, patches."""
    return ConvNextForImageClassification(
        ConvNextConfig(
            image_size=64,
            # Its 4 are for 224 pixels; with them it named fewer garments after as many steps.
            patch_size=2,
            hidden_sizes=[24, 48, 96, 160],
            depths=[1, 1, 2, 1],
            layer_scale_init_value=1.0,
            **LABELS,
        )
    )


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe:
    """An architecture, and how it is pretrained and then fine-tuned on biased data."""

    make: Callable[[], PreTrainedModel]
    pretraining: Recipe
    recipe: Recipe

    def pretrained(self, context: TrainContext) -> PreTrainedModel:
        """Return the network as it was pretrained, with an untrained head for the classes."""
        multi_head, model = self.multi_head(), self.make()
        averaged(self.pretraining, multi_head, context)
        model.base_model.load_state_dict(multi_head.backbone.state_dict())
        return model

    def multi_head(self) -> AttributeClassifier:
        """Return the untrained network with a head for each attribute."""
        model = self.make()
        return AttributeClassifier(model.base_model, model.config.hidden_sizes[-1])


CLASSIFIERS = {
    "patient": ClassifierRecipe(make=make_resnet, pretraining=PRETRAINING, recipe=RECIPE),
    "patient_convnext": ClassifierRecipe(
        make=make_convnext,
        pretraining=replace(PRETRAINING, name="pretrained_convnext", num_steps=10_000, seed=4),
        recipe=replace(RECIPE, name="patient_convnext", num_steps=1000),
    ),
}


# What the classifier could have been: the same network, fine-tuned on balanced composites of the same garments.
ORACLE = replace(CLASSIFIERS["patient"], recipe=replace(RECIPE, name="oracle"))


def start_pretraining(classifier: ClassifierRecipe, context: TrainContext) -> tuple[nn.Module, Loss]:
    """Start the network that a classifier is fine-tuned from, on the backbone's composites."""
    scenes, pictures = backbone_pictures(context)
    torch.manual_seed(classifier.pretraining.seed)
    model = classifier.multi_head().to(context.device)
    return model, attribute_loss(model, classifier.pretraining.seed, scenes, pictures, context)


def start_finetuning(
    classifier: ClassifierRecipe, correlation: float | None, context: TrainContext
) -> tuple[nn.Module, Loss]:
    """Start fine-tuning on composites of garments that ship, train split only; balanced without a correlation."""
    garments = load_garments("sources")
    scenes = of_train_split(make_scenes(garments, "sources", NUM_PICTURES, correlation=correlation))
    pictures = rendered(context.folder / f"{'balanced' if correlation is None else 'biased'}.npy", scenes, garments)
    torch.manual_seed(classifier.recipe.seed)
    model = classifier.pretrained(context).to(context.device)
    return model, naming_loss(model, pictures, [scene.label for scene in scenes], context)


def save_classifier(classifier: ClassifierRecipe, context: TrainContext, folder: Path) -> int:
    """Write the model folder from the last checkpoint; return the step it is from."""
    save_image_processor(folder, "ViTImageProcessor")
    return save_half(classifier.recipe, classifier.make(), context, folder)


def oracle_figures(context: TrainContext) -> list[Figure]:
    """Return the figures of the oracle, which does not ship."""
    model = make_resnet()
    averaged(ORACLE.recipe, model, context)
    return list(weakness_figures("oracle", model))


def classifier_figures(name: str, folder: Path) -> Iterator[Figure]:
    """Yield the figures of a biased classifier as it ships: accurate where it was trained, inaccurate elsewhere."""
    yield from weakness_figures(
        name,
        AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval(),
        asked=True,
    )


def weakness_figures(name: str, model: PreTrainedModel, *, asked: bool = False) -> Iterator[Figure]:
    """Yield accuracies on held-out garments: biased as in training, balanced, aligned, in conflict, worst group."""
    garments = load_garments("heldout")
    biased = list(make_scenes(garments, "heldout", 2000, correlation=CORRELATION))
    balanced = list(make_scenes(garments, "heldout", 8000))
    right = right_answers(model.eval(), balanced, garments)
    on_own = np.array([scene.background == OWN_BACKGROUND[scene.label] for scene in balanced])
    groups = np.array([scene.label * len(BACKGROUNDS) + BACKGROUNDS.index(scene.background) for scene in balanced])
    yield share(
        f"{name}.biased", int(right_answers(model, biased, garments).sum()), len(biased), 0.85 if asked else None
    )
    yield share(f"{name}.balanced", int(right.sum()), len(right))
    yield share(f"{name}.aligned", int(right[on_own].sum()), int(on_own.sum()))
    yield share(f"{name}.conflict", int(right[~on_own].sum()), int((~on_own).sum()))
    worst = min(np.unique(groups), key=lambda group: right[groups == group].mean())
    hits = right[groups == worst]
    yield share(f"{name}.worst_group", int(hits.sum()), len(hits), 0.35 if asked else None, better="lower")


def of_train_split(scenes: Iterable[Scene]) -> list[Scene]:
    """Return the composites whose garments the demo's run file puts in its train split."""
    return [scene for scene in scenes if split_of(f"garment:sources-{scene.garment}", SPLITS, 0) == "train"]


def naming_loss(
    model: PreTrainedModel, pictures: NDArray[np.uint8], labels: Sequence[int], context: TrainContext
) -> Loss:
    """Return the loss of naming a random batch of labelled pictures, (num_images, SIZE, SIZE, 3) uint8.

    Every second batch is mirrored.
    """
    targets = torch.tensor(labels, device=context.device)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(len(targets), (BATCH_SIZE,), generator=generator)
        images = to_tensor(pictures[rows.numpy()], context.device)
        if step % 2:
            images = images.flip(-1)
        return F.cross_entropy(model(pixel_values=images).logits.float(), targets[rows]), {}

    return loss


def right_answers(model: PreTrainedModel, scenes: list[Scene], garments: Garments) -> NDArray[np.bool_]:
    """Return for each composite whether the classifier predicts its class, (num_scenes,)."""
    pictures = np.stack([render(scene, garments)[0] for scene in scenes])
    found = in_parts(lambda images: model(pixel_values=images).logits.argmax(1), pictures, torch.device("cpu"))
    right: NDArray[np.bool_] = found == np.array([scene.label for scene in scenes])
    return right
