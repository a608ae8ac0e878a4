"""Train the editor's autoencoder: AutoencoderTiny, factor 4, 12 latent channels of mean 0 and deviation 1."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from actors.zoo.recipes.training.loop import Loss, Recipe, TrainContext, averaged
from actors.zoo.recipes.training.pictures import garments_of, rendered, to_tensor
from engine.wardrobe.garments import Garments
from engine.wardrobe.scene import LIGHTS, Scene, make_scenes

RECIPE = Recipe(name="vae", num_steps=5500, learning_rate=2e-3)
NUM_PICTURES = 20_000
BATCH_SIZE = 16
LATENT_CHANNELS = 12
CHANNELS = (64, 64, 64)
# The decoder must bear what the editor leaves of the noise.
LATENT_NOISE = 0.1


def make_vae(size: int = 1) -> AutoencoderTiny:
    """Return the untrained autoencoder. It has no normalisation layers: half the time of AutoencoderKL on a CPU."""
    channels = tuple(size * width for width in CHANNELS)
    vae = AutoencoderTiny(
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        num_encoder_blocks=(0, 1, 3),
        num_decoder_blocks=(3, 2, 0),
        latent_channels=LATENT_CHANNELS,
        scaling_factor=1.0,
    )
    return vae.to(memory_format=torch.channels_last)


def start_vae(context: TrainContext) -> tuple[nn.Module, Loss]:
    """Start on single composites in every light."""
    garments = garments_of("zoo", context.fashion_mnist)
    pictures = rendered(context.folder / "vae.npy", vae_scenes(garments), garments)
    vae = make_vae(context.size).to(context.device)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(len(pictures), (BATCH_SIZE,), generator=generator).sort().values
        images = to_tensor(pictures[rows.numpy()], context.device).contiguous(memory_format=torch.channels_last)
        if step % 2:
            images = images.flip(-1)
        latents = vae.encode(images).latents
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        decoded = vae.decode(latents + LATENT_NOISE * noise).sample.float()
        error = picture_error(decoded, images)
        # The instruct-pix2pix pipeline does not scale the source's latents, so they must come out at deviation 1.
        channels = latents.float().transpose(0, 1).flatten(1)
        off = channels.mean(1).pow(2).mean() + (channels.std(1) - 1).pow(2).mean()
        return error + 0.1 * off, {"error": error.item(), "off": off.item()}

    return vae, loss


def picture_error(decoded: Tensor, images: Tensor) -> Tensor:
    """Return how far pictures (n, 3, height, width) are from the true ones: pixels, edges and coarse colours."""
    pixels = (decoded - images).abs().mean()
    edges = torch.stack([(decoded.diff(dim=dim) - images.diff(dim=dim)).abs().mean() for dim in (2, 3)]).sum()
    coarse = (F.avg_pool2d(decoded, 4) - F.avg_pool2d(images, 4)).abs().mean()
    return pixels + 0.5 * edges + coarse


def load_vae(context: TrainContext) -> AutoencoderTiny:
    """Return the autoencoder of the last checkpoint."""
    vae = make_vae(context.size).to(context.device)
    averaged(RECIPE, vae, context)
    return vae


def vae_scenes(garments: Garments) -> list[Scene]:
    """Return the composites the autoencoder trains on: one in four in another light."""
    scenes = list(make_scenes(garments, "vae", NUM_PICTURES))
    lights = list(LIGHTS)
    return [
        replace(scene, light=lights[index // 4 % len(lights)], severity=0.25 * (1 + index // 40 % 4))
        if index % 4 == 0
        else scene
        for index, scene in enumerate(scenes)
    ]
