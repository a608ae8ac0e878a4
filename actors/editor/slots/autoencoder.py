"""Pictures to latents and back: the autoencoder of a pipeline, in batches of one shape of its own."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import torch

from actors.editor.slots.memory import Fitted
from actors.editor.strategies.latents import LatentDistribution
from actors.models.batching import padded_batches
from actors.models.device import upload
from actors.models.untyped import Model, Pipeline

Run = Callable[[torch.Tensor], torch.Tensor]


class Autoencoder:
    """Encode and decode pictures in batches of `batch_size`; `calls` counts the pictures of each.

    After `fit` these are as large as fits into memory.

    Half precision overflows in SDXL's: where its configuration says so it works in float32.
    """

    def __init__(self, pipeline: Pipeline, *, batch_size: int) -> None:
        self._vae: Model = pipeline.vae
        self._device: torch.device = pipeline.device
        self.batch_size = batch_size
        config = self._vae.config
        if self._vae.dtype == torch.float16 and getattr(config, "force_upcast", False):
            self._vae.to(torch.float32)
        self._scale = float(config.scaling_factor)
        self._mean = self._column(getattr(config, "latents_mean", None))
        self._deviation = self._column(getattr(config, "latents_std", None))
        self.decode_latents: Run = lambda latents: torch.as_tensor(self._vae.decode(latents, return_dict=False)[0])
        self.calls: Counter[str] = Counter()

    def fit(self, edge: int, name: str) -> None:
        """Decode an example of latents of `edge` times `edge`: where it runs out of memory, batches get smaller.

        Encoding takes less than decoding. For what happens later see Fitted.
        """
        shape = self.batch_size, int(self._vae.config.latent_channels), edge, edge
        example = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self._device, self._vae.dtype)
        fitted = Fitted(self.decode_latents, (example,), name=f"autoencoder of {name}")
        self.decode_latents, self.batch_size = fitted, fitted.num_rows

    def encode(self, pictures: torch.Tensor) -> list[LatentDistribution]:
        """Return what becomes of pictures (num_pictures, 3, height, width) in [0, 1]."""
        found: list[LatentDistribution] = []
        for batch, count in padded_batches(list(pictures), self.batch_size):
            pixels = upload(2 * torch.stack(batch) - 1, self._device).to(self._vae.dtype)
            output = self._vae.encode(pixels)
            # Tiny autoencoders are certain, the others give a distribution.
            if hasattr(output, "latents"):
                found += [LatentDistribution(mean=mean.float(), deviation=None) for mean in output.latents[:count]]
            else:
                means, deviations = output.latent_dist.mean[:count].float(), output.latent_dist.std[:count].float()
                found += [
                    LatentDistribution(mean=one, deviation=two) for one, two in zip(means, deviations, strict=True)
                ]
            self.calls["encoded"] += count
        return found

    def decode(self, latents: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the picture of each latents, (3, height, width) float32 on the device; [0, 1] and a little beyond."""
        for batch, count in padded_batches(latents, self.batch_size):
            pixels = self.decode_latents(torch.stack(batch).to(self._vae.dtype))
            self.calls["decoded"] += count
            yield from (pixels[:count].float() + 1) / 2

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the autoencoder's latents as the UNet knows them."""
        if self._mean is not None and self._deviation is not None:
            return (latents - self._mean) * self._scale / self._deviation
        return latents * self._scale

    def unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the UNet's latents as the autoencoder knows them."""
        if self._mean is not None and self._deviation is not None:
            return latents * self._deviation / self._scale + self._mean
        return latents / self._scale

    def _column(self, values: Sequence[float] | None) -> torch.Tensor | None:
        return None if values is None else torch.tensor(values, device=self._device)[:, None, None]
