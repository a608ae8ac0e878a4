"""Train the autoencoder's decoder on, for the latents that the editor knows: they stay as they are."""

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from actors.zoo.recipes.backbone import load_backbone
from actors.zoo.recipes.edit_pairs import editor_families, editor_latents, editor_pictures
from actors.zoo.recipes.training.loop import Loss, Recipe, TrainContext, averaged, drawn_rows
from actors.zoo.recipes.training.pictures import garments_of, to_tensor
from actors.zoo.recipes.vae import BATCH_SIZE, LATENT_NOISE, load_vae, picture_error

RECIPE = Recipe(name="decoder", num_steps=22000, learning_rate=1e-3)
FEATURE_WEIGHT = 1.0


def start_decoder(context: TrainContext) -> tuple[nn.Module, Loss]:
    """Start on the editor's composites; the loss compares the pixels and the backbone's feature maps."""
    garments = garments_of("zoo", context.fashion_mnist)
    families = editor_families(garments)
    latents, pictures = editor_latents(context, families), editor_pictures(context.folder, families, garments)
    decoder, encoder = load_vae(context).decoder, load_backbone(context)

    def features(images: Tensor) -> list[Tensor]:
        # The deepest maps know only the attributes: what a picture looks like is in the others.
        maps = encoder(images, output_hidden_states=True).hidden_states[:-1]
        return [F.normalize(seen.float(), dim=1) for seen in maps]

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = drawn_rows(RECIPE.seed, step, len(latents), BATCH_SIZE)
        images = to_tensor(pictures[rows], context.device)
        known = torch.from_numpy(latents[rows].astype(np.float32)).to(context.device)
        noise = torch.randn(known.shape, generator=generator).to(known)
        decoded = decoder(known + LATENT_NOISE * noise).float()
        with torch.no_grad():
            true = features(images)
        seen = torch.stack(
            [(mine - its).pow(2).sum(1).mean() for mine, its in zip(features(decoded), true, strict=True)]
        )
        error = picture_error(decoded, images)
        return error + FEATURE_WEIGHT * seen.mean(), {"error": error.item(), "features": seen.mean().item()}

    return decoder, loss


def load_decoded_vae(context: TrainContext) -> AutoencoderTiny:
    """Return the autoencoder with the decoder of the last checkpoint."""
    vae = load_vae(context)
    averaged(RECIPE, vae.decoder, context)
    return vae
