"""Train the autoencoder's decoder on, for the latents that the editor knows: they stay as they are."""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor

from actors.zoo.recipes.backbone import load_backbone
from actors.zoo.recipes.edit_pairs import editor_families, editor_latents, editor_pictures
from actors.zoo.recipes.loop import Recipe, Workshop, averaged, train
from actors.zoo.recipes.pictures import garments_of, to_tensor
from actors.zoo.recipes.vae import BATCH_SIZE, LATENT_NOISE, load_vae, picture_error

RECIPE = Recipe(name="decoder", num_steps=22000, learning_rate=1e-3)
FEATURE_WEIGHT = 1.0


def train_decoder(workshop: Workshop, num_steps: int | None = None) -> None:
    """Train on the editor's composites: the picture, and what the backbone sees in it."""
    recipe = replace(RECIPE, num_steps=num_steps or RECIPE.num_steps)
    garments = garments_of("zoo", workshop.fashion_mnist)
    families = editor_families(garments)
    latents, pictures = editor_latents(workshop, families), editor_pictures(workshop.folder, families, garments)
    decoder, eyes = load_vae(workshop).decoder, load_backbone(workshop)

    def features(images: Tensor) -> list[Tensor]:
        # The deepest maps know only the attributes: what a picture looks like is in the others.
        maps = eyes(images, output_hidden_states=True).hidden_states[:-1]
        return [F.normalize(seen.float(), dim=1) for seen in maps]

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = np.sort(np.random.default_rng((recipe.seed, step)).integers(len(latents), size=BATCH_SIZE))
        images = to_tensor(pictures[rows], workshop.device)
        known = torch.from_numpy(latents[rows].astype(np.float32)).to(workshop.device)
        noise = torch.randn(known.shape, generator=generator).to(known)
        decoded = decoder(known + LATENT_NOISE * noise).float()
        with torch.no_grad():
            true = features(images)
        seen = torch.stack(
            [(mine - its).pow(2).sum(1).mean() for mine, its in zip(features(decoded), true, strict=True)]
        )
        error = picture_error(decoded, images)
        return error + FEATURE_WEIGHT * seen.mean(), {"error": error.item(), "features": seen.mean().item()}

    train(recipe, decoder, loss, workshop)


def load_decoded_vae(workshop: Workshop) -> AutoencoderTiny:
    """Return the autoencoder with the decoder of the last checkpoint."""
    vae = load_vae(workshop)
    averaged(RECIPE, vae.decoder, workshop)
    return vae
