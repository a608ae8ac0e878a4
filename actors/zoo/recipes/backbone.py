"""Train the image encoder of captioner and verifier: a ResNet that tells class, colour, background and light."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel

from actors.finetune.augment import gaussian_blurred
from actors.models.token_encoder import give_tokens
from actors.zoo.recipes.training.loop import Loss, Recipe, TrainContext, averaged, drawn_rows
from actors.zoo.recipes.training.pictures import garments_of, in_parts, made_once, rendered, to_tensor
from engine.wardrobe.garments import CLASSES, Garments
from engine.wardrobe.scene import BACKGROUNDS, COLOURS, LIGHTS, Scene, make_scenes

RECIPE = Recipe(name="backbone", num_steps=12_000, learning_rate=2e-3, weight_decay=0.05, num_warmup_steps=300)
NUM_PICTURES = 120_000
BATCH_SIZE = 64
LIGHT_SHARE = 0.2
WIDTH = 192
# The attributes of a composite, and their weights in the loss: the class is by far the hardest.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "class": CLASSES,
    "colour": tuple(COLOURS),
    "background": BACKGROUNDS,
    "light": tuple(LIGHTS),
}
WEIGHTS = {"class": 1.0, "colour": 0.3, "background": 0.3, "light": 0.1}


class AttributeClassifier(nn.Module):
    """An image encoder of `width` features with one linear head for each attribute."""

    def __init__(self, backbone: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in ATTRIBUTES.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the logits of every attribute, (n, num_values), for images (n, 3, 64, 64) in [-1, 1]."""
        features = self.backbone(images).pooler_output.flatten(1)
        return {name: head(features).float() for name, head in self.heads.items()}


def make_backbone(size: int = 1) -> AttributeClassifier:
    """Return the untrained backbone with its heads."""
    model = ResNetModel(resnet_config(size))
    # Encoder-decoders and dual encoders ask for it by this name.
    model.config.hidden_size = size * WIDTH
    return AttributeClassifier(model, size * WIDTH)


def resnet_config(size: int = 1, **labels: object) -> ResNetConfig:
    """Return the layers of backbone, judge and the first classifier, with `size` times their width."""
    # Convolutions learn shapes at once, with batch norm fastest: a plain vision transformer of this size named one
    # garment in five after 2,400 steps, a Swin .43 after 3,400, a ConvNeXt .43 after 700, this one .56 after 700.
    widths = [size * width for width in (32, 64, 128, WIDTH)]
    return ResNetConfig(
        embedding_size=32 * size, hidden_sizes=widths, depths=[1, 2, 2, 1], layer_type="basic", **labels
    )


def start_backbone(context: TrainContext) -> tuple[nn.Module, Loss]:
    """Start on balanced composites of garments that do not ship."""
    model = make_backbone(context.size).to(context.device)
    return model, attribute_loss(model, RECIPE.seed, *backbone_pictures(context), context)


def load_backbone(context: TrainContext) -> ResNetModel:
    """Return the backbone of the last checkpoint, frozen; it answers with tokens."""
    model = make_backbone(context.size)
    averaged(RECIPE, model, context)
    backbone = model.backbone.eval().requires_grad_(False).to(context.device)
    give_tokens(backbone)
    assert isinstance(backbone, ResNetModel)
    return backbone


def backbone_scenes(garments: Garments) -> list[Scene]:
    """Return the composites that the backbone and its readers train on."""
    return attribute_scenes(garments, "backbone", NUM_PICTURES)


def backbone_pictures(context: TrainContext) -> tuple[list[Scene], NDArray[np.uint8]]:
    """Return these composites and their pictures, (NUM_PICTURES, 64, 64, 3) uint8."""
    garments = garments_of("zoo", context.fashion_mnist)
    scenes = backbone_scenes(garments)
    return scenes, rendered(context.folder / "backbone.npy", scenes, garments)


def backbone_features(context: TrainContext) -> NDArray[np.float16]:
    """Return the tokens that the backbone makes of its pictures, (NUM_PICTURES, num_tokens, WIDTH), made once."""

    def make() -> NDArray[np.float16]:
        backbone, (_, pictures) = load_backbone(context), backbone_pictures(context)
        return in_parts(lambda images: backbone(images).last_hidden_state.half(), pictures, context.device)

    return made_once(context.folder / "backbone_features.npy", make)


def attribute_scenes(garments: Garments, name: str, count: int) -> list[Scene]:
    """Return balanced composites, one in five in another light, whatever its class."""
    # Drawn, not counted: classes take turns, and every fifth composite would be of the same two.
    draws = np.random.default_rng(5).random((count, 2))
    lights = [light for light in LIGHTS if light != "plain"]
    return [
        replace(scene, light=lights[int(which * len(lights))]) if share < LIGHT_SHARE else scene
        for scene, (share, which) in zip(make_scenes(garments, name, count), draws, strict=True)
    ]


def attributes(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Return the true value of each attribute as an index, (num_scenes,)."""
    return {
        name: torch.tensor(
            [values.index(scene.class_name if name == "class" else getattr(scene, name)) for scene in scenes]
        )
        for name, values in ATTRIBUTES.items()
    }


def attribute_loss(
    model: AttributeClassifier,
    seed: int,
    scenes: Sequence[Scene],
    pictures: NDArray[np.uint8],
    context: TrainContext,
) -> Loss:
    """Return the loss of drawn batches: cross-entropy of every attribute.

    Half of the batches are mirrored; every third is blurred by up to a pixel, as what an editor makes is smooth.
    """
    truth = attributes(scenes)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = drawn_rows(seed, step, len(scenes), BATCH_SIZE)
        images = to_tensor(pictures[rows], context.device)
        if step % 2:
            images = images.flip(-1)
        if step % 3 == 0:
            images = gaussian_blurred(images, torch.rand((), generator=generator).expand(len(images)), radius=2)
        logits = model(images)
        losses = {
            name: F.cross_entropy(logits[name], truth[name][rows].to(context.device), label_smoothing=0.05)
            for name in ATTRIBUTES
        }
        right = (logits["class"].argmax(1).cpu() == truth["class"][rows]).float().mean()
        total = torch.stack([WEIGHTS[name] * losses[name] for name in ATTRIBUTES]).sum()
        return total, {"class_accuracy": right.item()}

    return loss


def seen(model: AttributeClassifier, pictures: NDArray[np.uint8]) -> dict[str, NDArray[np.intp]]:
    """Return the index of the predicted value of each attribute, (n,), for pictures (n, 64, 64, 3) uint8."""

    def indexes(images: Tensor) -> Tensor:
        return torch.stack([logits.argmax(1) for logits in model.eval()(images).values()], 1)

    found = in_parts(indexes, pictures, next(model.parameters()).device)
    return dict(zip(ATTRIBUTES, found.T, strict=True))
