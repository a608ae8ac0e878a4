"""One arm of fine-tuning under DeepSpeed: its steps, its checkpoints, its score."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from actors.finetune_augment import blurred
from actors.finetune_data import Batch, DecodedImages, Place
from actors.finetune_model import (
    Preprocessing,
    Weights,
    freeze_batch_norm,
    gather_weights,
    parameter_groups,
    prepare_batch_norm,
    synchronise_buffers,
)
from engine.recipe import learning_rate_factor, precision_name
from engine.runfile import ReinforceConfig
from engine.sample import Json

TAG = "state"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Beside right and wrong: an image that cannot be read, which counts for nobody.
MARKS = "01-"
UNREADABLE = 2


@dataclass(frozen=True, kw_only=True)
class ValidationImages:
    """Hold images and labels (n,) that a classifier is scored on; each worker decodes its own part."""

    images: DecodedImages
    labels: NDArray[np.int64]


class Arm:
    """Train a classifier with DeepSpeed. All workers make the same calls in the same order."""

    def __init__(
        self, model: nn.Module, preprocessing: Preprocessing, config: ReinforceConfig, settings: Mapping[str, Json]
    ) -> None:
        import deepspeed

        self._config = config
        self._preprocessing = preprocessing
        precision = precision_name(settings)
        self._dtype = DTYPES[precision]
        prepare_batch_norm(model, precision)
        # A torch optimizer: DeepSpeed's own would be compiled at the first run.
        optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.learning_rate)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=model, optimizer=optimizer, config={"zero_force_ds_cpu_optimizer": False, **settings}
        )

    def train(self, batch: Batch, step: int, seed: int) -> Tensor:
        """Make step number `step` (from 0) and return the loss of this worker's images."""
        # Dropout must not depend on whether the run was resumed.
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        self._engine.train()
        if self._config.freeze_batch_norm:
            freeze_batch_norm(self._engine.module)
        total = torch.zeros((), device=self._engine.device)
        count = self._engine.gradient_accumulation_steps()
        for pixels, labels in zip(np.split(batch.pixels, count), np.split(batch.labels, count), strict=True):
            target = torch.from_numpy(labels).to(self._engine.device)
            inputs = blurred(self._inputs(pixels), self._config.max_blur, generator)
            loss = nn.functional.cross_entropy(self._logits(inputs), target)
            self._engine.backward(loss)
            self._engine.step()
            total += loss.detach() / count
        return total

    @property
    def device(self) -> torch.device:
        """Return the device of this worker."""
        device: torch.device = self._engine.device
        return device

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        return self._config.learning_rate * learning_rate_factor(step, self._config)

    def score(self, images: ValidationImages, place: Place) -> str:
        """Return which images the classifier gets right: "1", "0", or "-" where an image cannot be read."""
        synchronise_buffers(self._engine.module)
        self._engine.eval()
        marks = torch.zeros(len(images.labels), dtype=torch.int32, device=self._engine.device)
        mine = np.arange(place.rank, len(images.labels), place.size)
        size = self._config.batch_size // place.size
        with torch.no_grad():
            # Under ZeRO-3 each forward is a collective: all workers make the same number.
            for start in range(0, ceil(len(images.labels) / place.size / size) * size, size):
                self._mark(images, mine[start : start + size], marks)
        torch.distributed.all_reduce(marks)
        return "".join(MARKS[mark] for mark in marks.tolist())

    def weights(self) -> Weights:
        """Return the whole model, as it was scored."""
        return gather_weights(self._engine.module)

    def save(self, folder: str) -> None:
        """Write this worker's part of the training state."""
        self._engine.save_checkpoint(folder, tag=TAG)

    def load(self, folder: str) -> None:
        """Go on from the training state that `save` wrote with the same number of workers."""
        self._engine.load_checkpoint(folder, tag=TAG)

    def close(self) -> None:
        """Let go of the memory, for the next arm."""
        self._engine.destroy()

    def _inputs(self, pixels: NDArray[Any]) -> Tensor:
        return self._preprocessing.inputs(pixels, self._engine.device)

    def _logits(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self._engine(pixel_values=inputs.to(self._dtype)).logits
        return logits.float()

    def _mark(self, images: ValidationImages, indices: NDArray[np.int64], marks: Tensor) -> None:
        decoded = {int(index): images.images(int(index)) for index in indices}
        readable = [index for index, pixels in decoded.items() if pixels is not None]
        marks[[index for index, pixels in decoded.items() if pixels is None]] = UNREADABLE
        rows = [pixels for pixels in decoded.values() if pixels is not None]
        if not rows:  # this worker has none left, but takes part in the collective
            every = (images.images(index) for index in range(len(images.labels)))
            rows = list(itertools.islice((row for row in every if row is not None), 1))
            if not rows:
                return
        found = self._logits(self._inputs(np.stack(rows))).argmax(-1)[: len(readable)].cpu().numpy()
        right = found == images.labels[readable]
        marks[readable] = torch.from_numpy(right.astype(np.int32)).to(marks.device)
