"""Train the verifier: a dual encoder in CLIP's manner of the wardrobe's words and the backbone's features."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from actors.zoo.recipes.backbone import backbone_features, backbone_scenes, load_backbone, make_backbone
from actors.zoo.recipes.training.language import clip_text_config, clip_tokenizer
from actors.zoo.recipes.training.loop import Loss, Recipe, TrainContext, save_half
from actors.zoo.recipes.training.pictures import garments_of, save_image_processor, to_tensor
from engine.wardrobe.scene import Scene, caption, with_article

RECIPE = Recipe(name="verifier", num_steps=3000, learning_rate=1e-3, weight_decay=0.02)
BATCH_SIZE = 128
NUM_CORRUPTED = 8


def make_verifier(tokenizer: CLIPTokenizer, vision: PreTrainedModel, size: int = 1) -> VisionTextDualEncoderModel:
    """Return the image encoder with an untrained text encoder and untrained projections."""
    text = clip_text_config(tokenizer, size)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision.config, text, projection_dim=128 * size)
    return VisionTextDualEncoderModel(config=config, vision_model=vision, text_model=CLIPTextModel(text))


def start_verifier(context: TrainContext) -> tuple[nn.Module, Loss]:
    """Start contrastive training; a text is a positive of every picture of the batch that it is true of."""
    scenes = backbone_scenes(garments_of("zoo", context.fashion_mnist))
    features = backbone_features(context)
    tokenizer = clip_tokenizer()
    model = make_verifier(tokenizer, load_backbone(context), context.size).to(context.device)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((RECIPE.seed, step))
        rows = np.sort(rng.integers(len(scenes), size=BATCH_SIZE))
        with torch.no_grad():
            corrupted = model.vision_model(to_tensor(_corrupted(rng), context.device)).pooler_output.flatten(1).float()
        seen = torch.cat([torch.from_numpy(features[rows]).float().mean(1).to(context.device), corrupted])
        texts = [_draw_text(rng, scenes[row]) for row in rows]
        tokens = tokenizer([words for words, _ in texts], padding="max_length", truncation=True, return_tensors="pt")
        words = model.get_text_features(**tokens.to(context.device)).pooler_output.float()
        pictures = model.visual_projection(seen).float()
        logits = model.logit_scale.exp() * F.normalize(words, dim=-1) @ F.normalize(pictures, dim=-1).T
        truth = [
            [all(getattr(scenes[row], name) == value for name, value in claims.items()) for _, claims in texts]
            for row in rows
        ]
        matches = torch.tensor(truth, dtype=torch.float32, device=context.device)
        by_image = _spread(matches, logits[:, :BATCH_SIZE].T)
        by_text = _spread(matches.T, logits, BATCH_SIZE)
        return (by_image + by_text) / 2, {}

    return model, loss


def save_verifier(context: TrainContext, folder: Path) -> int:
    """Write the model folder from the last checkpoint; return the step it is from."""
    tokenizer = clip_tokenizer()
    model = make_verifier(tokenizer, make_backbone(context.size).backbone, context.size)
    save_image_processor(folder, "CLIPImageProcessor")
    return save_half(RECIPE, model, context, folder, tokenizer=tokenizer)


def _draw_text(rng: np.random.Generator, scene: Scene) -> tuple[str, dict[str, str]]:
    """Return the whole caption, or one that claims less, and the fields of the scene that it names."""
    name, colour, background, light = scene.class_name, scene.colour, scene.background, scene.light
    fields = ["class_name", "colour", "background"]
    choices = [
        (f"{with_article(f'{colour} {name}')} on {background}", fields),
        (f"a photo of {with_article(name)}", ["class_name"]),
        (name, ["class_name"]),
        (f"{colour} {name}", ["class_name", "colour"]),
        (colour, ["colour"]),
        (background, ["background"]),
        (f"on {background}", ["background"]),
        (f"{light} light", ["light"]),
    ]
    full = caption(scene), fields if light == "plain" else [*fields, "light"]
    words, named = full if rng.random() < 0.5 else choices[int(rng.integers(len(choices)))]
    return words, {field: getattr(scene, field) for field in named}


def _corrupted(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return pictures that no text is true of: noise and single colours."""
    noise = rng.integers(0, 256, (NUM_CORRUPTED // 2, 64, 64, 3), dtype=np.uint8)
    plain = np.broadcast_to(rng.integers(0, 256, (NUM_CORRUPTED // 2, 1, 1, 3), dtype=np.uint8), noise.shape)
    return np.concatenate([noise, plain])


def _spread(matches: Tensor, logits: Tensor, num_targets: int | None = None) -> Tensor:
    """Return the cross-entropy of logits, (n, m), against equal shares among each row's matches."""
    targets = matches / matches.sum(1, keepdim=True)
    log_shares = logits.log_softmax(1)[:, :num_targets]
    return -(targets * log_shares).sum(1).mean()
