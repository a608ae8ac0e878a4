"""The latents of a source, from which edits start and on which a UNet is conditioned."""

from dataclasses import dataclass

import torch

from actors.models.device import upload


@dataclass(frozen=True, kw_only=True)
class LatentDistribution:
    """An autoencoder's latents of a picture: their mean and, where it gives one, their standard deviation.

    Both (channels, height, width), as the autoencoder has them: not scaled.
    """

    mean: torch.Tensor
    deviation: torch.Tensor | None

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """Return latents drawn with a CPU generator, the mean where there is no deviation."""
        if self.deviation is None:
            return self.mean
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype)
        return self.mean + self.deviation * upload(noise, self.mean.device)


@dataclass(frozen=True, kw_only=True)
class SourceLatents:
    """The latents that all edits of a source share.

    `picture` is the whole source. `mask` (1, height, width), of inpainting, is 1 where latents are redrawn. `outside`
    is the source with that part grey, encoded only for a UNet that has input channels for it.
    """

    picture: LatentDistribution
    outside: LatentDistribution | None = None
    mask: torch.Tensor | None = None
