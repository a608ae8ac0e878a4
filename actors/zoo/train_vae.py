"""Train the editor's autoencoder: AutoencoderKL, factor 4, 8 latent channels, normalised latents."""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from actors.zoo.pictures import garments_of, rendered, to_tensor
from actors.zoo.training import Recipe, Workshop, averaged, train
from engine.wardrobe.garments import Garments
from engine.wardrobe.scene import LIGHTS, Scene, make_scenes

RECIPE = Recipe(name="vae", num_steps=2600, learning_rate=1.5e-3)
NUM_PICTURES = 20_000
BATCH_SIZE = 16
LATENT_CHANNELS = 8


def make_vae() -> AutoencoderKL:
    """Return the untrained autoencoder."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
    )


def train_vae(workshop: Workshop, num_steps: int | None = None) -> AutoencoderKL:
    """Train on single composites in every light and return the autoencoder with its latents normalised."""
    recipe = replace(RECIPE, num_steps=num_steps or RECIPE.num_steps)
    garments = garments_of("zoo", workshop.fashion_mnist)
    pictures = rendered(workshop.folder / "vae.npy", vae_scenes(garments), garments)
    vae = make_vae().to(workshop.device)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(len(pictures), (BATCH_SIZE,), generator=generator).sort().values
        images = to_tensor(pictures[rows.numpy()], workshop.device)
        if step % 2:
            images = images.flip(-1)
        latents = vae.encode(images).latent_dist
        decoded = vae.decode(latents.sample()).sample.float()
        error = (decoded - images).abs().mean()
        edges = sum((decoded.diff(dim=dim) - images.diff(dim=dim)).abs().mean() for dim in (2, 3))
        coarse = (F.avg_pool2d(decoded, 4) - F.avg_pool2d(images, 4)).abs().mean()
        kl = latents.kl().float().mean() / latents.mean[0].numel()
        return error + 0.5 * edges + coarse + 1e-4 * kl, {"error": error.item(), "kl": kl.item()}

    train(recipe, vae, loss, workshop)
    return normalised(vae, pictures, workshop)


def load_vae(workshop: Workshop) -> AutoencoderKL:
    """Return the autoencoder of the last checkpoint with its latents normalised."""
    garments = garments_of("zoo", workshop.fashion_mnist)
    pictures = rendered(workshop.folder / "vae.npy", vae_scenes(garments), garments)
    vae = make_vae().to(workshop.device)
    averaged(RECIPE, vae, workshop)
    return normalised(vae, pictures, workshop)


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


@torch.no_grad()
def normalised(vae: AutoencoderKL, pictures: NDArray[np.uint8], workshop: Workshop) -> AutoencoderKL:
    """Fold mean and deviation of each latent channel into the 1x1 convolutions beside the latents.

    Then every channel has mean 0 and deviation 1 with a scaling factor of 1. The instruct-pix2pix pipeline does not
    scale the source's latents at all, so the factor cannot do it.
    """
    vae = vae.eval().float()
    images = to_tensor(pictures[:1024], workshop.device)
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in torch.split(images, 64)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    encode, decode = vae.quant_conv, vae.post_quant_conv
    decode.bias += decode.weight[:, :, 0, 0] @ mean
    decode.weight *= deviation[None, :, None, None]
    encode.bias[:LATENT_CHANNELS] = (encode.bias[:LATENT_CHANNELS] - mean) / deviation
    encode.weight[:LATENT_CHANNELS] /= deviation[:, None, None, None]
    encode.bias[LATENT_CHANNELS:] -= 2 * deviation.log()
    return vae
