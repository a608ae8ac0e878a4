"""What a UNet is trained on and asked about: latents with noise, and what it should predict from them."""

import torch

from actors.editor.samplers.solvers import Prediction


def noised(clean: torch.Tensor, noise: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Return latents of which the share `kept` of the variance is left, in [0, 1] (Ho et al. 2020, eq. 4)."""
    return kept.sqrt() * clean + (1 - kept).sqrt() * noise


def perfect_prediction(
    prediction: Prediction, clean: torch.Tensor, noise: torch.Tensor, kept: torch.Tensor
) -> torch.Tensor:
    """Return what a perfect UNet would predict from noised latents, in the shape of the noise."""
    match prediction:
        case "epsilon":
            return noise
        case "v_prediction":
            # Salimans and Ho 2022, appendix D.
            return kept.sqrt() * noise - (1 - kept).sqrt() * clean
        case "sample":
            return clean.expand_as(noise)
