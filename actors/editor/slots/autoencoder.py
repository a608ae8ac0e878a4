"""Pictures to latents and back: the autoencoder of a pipeline, in batches of one shape of its own."""

from collections import Counter
from collections.abc import Iterator, Sequence

import torch

from actors.editor.slots.memory import Fitted
from actors.editor.strategies.latents import LatentDistribution
from actors.models.batching import padded_batches
from actors.models.device import upload
from actors.models.untyped import Model, Pipeline


class Autoencoder:
    """Encode and decode pictures of `size` pixels in batches of one shape; `calls` counts the pictures of each.

    Batches have `batch_size` pictures, or as many as the decoder has memory for: it first decodes an example. Encoding
    takes less. SDXL's autoencoder overflows in half precision: if its configuration says so it works in float32.
    """

    def __init__(self, pipeline: Pipeline, *, size: int, batch_size: int, calls: Counter[str], name: str) -> None:
        self._vae: Model = pipeline.vae
        self._device: torch.device = pipeline.device
        self.calls = calls
        config = self._vae.config
        if self._vae.dtype == torch.float16 and getattr(config, "force_upcast", False):
            self._vae.to(torch.float32)
        self._scale = float(config.scaling_factor)
        self._mean, self._deviation = (
            default
            if (values := getattr(config, name, None)) is None
            else torch.tensor(values, device=self._device)[:, None, None]
            for name, default in (("latents_mean", 0.0), ("latents_std", 1.0))
        )
        edge = size // int(pipeline.vae_scale_factor)
        shape = batch_size, int(config.latent_channels), edge, edge
        example = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self._device, self._vae.dtype)
        with torch.inference_mode():
            self.decode_latents = Fitted(self._run_decoder, (example,), name=f"autoencoder of {name}")
        self.batch_size = self.decode_latents.num_rows

    def encode(self, pictures: torch.Tensor) -> list[LatentDistribution]:
        """Return the latents of pictures (num_pictures, 3, height, width) in [0, 1]."""
        found: list[LatentDistribution] = []
        for batch, count in padded_batches(list(pictures), self.batch_size):
            pixels = upload(2 * torch.stack(batch) - 1, self._device).to(self._vae.dtype)
            output = self._vae.encode(pixels)
            # Tiny autoencoders give latents, the others a distribution of them.
            is_tiny = hasattr(output, "latents")
            means = (output.latents if is_tiny else output.latent_dist.mean)[:count].float()
            deviations = [None] * count if is_tiny else output.latent_dist.std[:count].float()
            found += [LatentDistribution(mean=one, deviation=two) for one, two in zip(means, deviations, strict=True)]
            self.calls["encoded"] += count
        return found

    def decode(self, latents: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the picture of each latents, (3, height, width) float32 on the device; [0, 1] and a little beyond."""
        for batch, count in padded_batches(latents, self.batch_size):
            pixels = self.decode_latents(torch.stack(batch).to(self._vae.dtype))
            self.calls["decoded"] += count
            yield from (pixels[:count].float() + 1) / 2

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """Return latents of the autoencoder as those of the UNet."""
        return (latents - self._mean) * self._scale / self._deviation

    def unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        """Return latents of the UNet as those of the autoencoder."""
        return latents * self._deviation / self._scale + self._mean

    def _run_decoder(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self._vae.decode(latents, return_dict=False)[0])
