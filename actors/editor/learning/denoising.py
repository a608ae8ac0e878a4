"""The loss by which an editor learns: its own, on pairs of a source and an edited picture.

It is the mean squared error of what the UNet predicts from the noised edited picture, its source and the text
(Ho et al. 2020, eq. 14; Brooks et al. 2023, eq. 1).
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from actors.editor.learning.pairs import LearningPairs
from actors.editor.samplers.noising import noised, perfect_prediction
from actors.models.device import precision, upload
from actors.models.untyped import Pipeline
from engine.runfile.fields import ModelConfig
from engine.sample import content_seed

# Batches of noise on which what was learned is compared.
NUM_COMPARED = 16
# From tokens (num_rows, length) to the text conditioning of the UNet, (num_rows, length, width).
Embed = Callable[[torch.Tensor], torch.Tensor]


class DenoisingLoss:
    """The loss of a pipeline on batches of pairs, times and noise that a name and the seed decide."""

    def __init__(
        self, pipeline: Pipeline, model: ModelConfig, pairs: LearningPairs, *, seed: int, batch_size: int
    ) -> None:
        self.pairs = pairs
        self._pipeline, self._model, self._seed, self._batch_size = pipeline, model, seed, batch_size
        for part in (pipeline.unet, pipeline.text_encoder):
            part.requires_grad_(False)

    def __call__(self, turn: str, *, own_text: bool = False, embed: Embed | None = None) -> torch.Tensor:
        """Return the loss on the batch of a turn; `own_text` is the text that the run had, with the value itself."""
        scheduler, pairs, device = self._pipeline.scheduler, self.pairs, self._pipeline.device
        generator = torch.Generator().manual_seed(content_seed(self._seed, turn))
        rows = torch.randint(len(pairs), (self._batch_size,), generator=generator)
        times = torch.randint(scheduler.config.num_train_timesteps, rows.shape, generator=generator)
        clean = pairs.edited[rows]
        noise = torch.randn(clean.shape, generator=generator)
        kept = scheduler.alphas_cumprod.cpu()[times][:, None, None, None]
        noisy = noised(clean, noise, kept)
        wanted = perfect_prediction(scheduler.config.prediction_type, clean, noise, kept)
        if pairs.conditions is not None:
            noisy = torch.cat([noisy, pairs.conditions[rows]], 1)
        tokens = (pairs.own_tokens if own_text else pairs.tokens)[rows]
        unet = self._pipeline.unet
        with precision(self._model, device):
            text = (embed or self.embed)(tokens.to(device)).to(unet.dtype)
            predicted = unet(upload(noisy, device).to(unet.dtype), times.to(device), text).sample
        return F.mse_loss(predicted.float(), upload(wanted, device))

    def compared(self, *, own_text: bool = False, embed: Embed | None = None) -> float:
        """Return the mean loss on noise that is the same for all that is compared."""
        turns = (f"compared/{turn}" for turn in range(NUM_COMPARED))
        with torch.no_grad():
            return float(np.mean([self(turn, own_text=own_text, embed=embed).item() for turn in turns]))

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the embedding of tokens, (num_rows, length, width)."""
        encoder = self._pipeline.text_encoder
        mask = torch.ones_like(tokens) if getattr(encoder.config, "use_attention_mask", False) else None
        return torch.as_tensor(encoder(tokens, attention_mask=mask)[0])
