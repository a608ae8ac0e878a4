"""Detail that the autoencoder of a pipeline loses, put back where an edit changes nothing."""

import torch
import torch.nn.functional as F

from actors.models.untyped import Pipeline

# Mean colour difference, in [0, 1], from which on no detail is put back; up to it the share falls linearly. Of the
# places in the wardrobe's training garments that an edit must keep, 99 % differ by less than 0.08; new ones by more.
CHANGED = 0.1
# Radius of the average, as a share of the edge: single pixels of a new object may match the source by chance.
NEIGHBOURHOOD = 1 / 32


def with_detail(edited: torch.Tensor, images: torch.Tensor, reconstructed: torch.Tensor) -> torch.Tensor:
    """Return the edited images with the autoencoder's loss added where they equal their sources.

    All are (num_rows, 3, size, size) in [0, 1], the result a little beyond; `reconstructed` are the sources through the
    autoencoder. Only what it lost is added, so no edit is undone. Values that are not finite stay so.
    """
    radius = max(1, round(edited.shape[-1] * NEIGHBOURHOOD))
    difference = (edited - reconstructed).abs().mean(1, keepdim=True)
    around = F.pad(difference, (radius,) * 4, mode="reflect")
    kept = (1 - F.avg_pool2d(around, 2 * radius + 1, stride=1) / CHANGED).clamp(0, 1)
    return edited + kept * (images - reconstructed)


def reconstruct(pipeline: Pipeline, images: torch.Tensor) -> torch.Tensor:
    """Return images (num_rows, 3, size, size), in [0, 1], through the pipeline's autoencoder and back, on the CPU."""
    vae = pipeline.vae
    own = vae.dtype
    # SDXL's autoencoder overflows in half precision; its pipelines do the same.
    dtype = torch.float32 if own == torch.float16 and getattr(vae.config, "force_upcast", False) else own
    vae.to(dtype)
    pixels = (2 * images - 1).to(pipeline.device, dtype)
    # Qwen-Image's autoencoder is one of videos: a picture is a video of one frame.
    is_video = "temperal_downsample" in vae.config
    encoded = vae.encode(pixels.unsqueeze(2) if is_video else pixels)
    latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    decoded = vae.decode(latents).sample
    decoded = decoded.squeeze(2) if is_video else decoded
    vae.to(own)
    return torch.as_tensor((decoded.float() + 1) / 2).clamp(0, 1).cpu()
