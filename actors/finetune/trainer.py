"""The trainer of one arm under DeepSpeed: its steps, its checkpoints, its score."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from actors.classifier.heads import recorded_inputs
from actors.finetune.arms.contrast import supervised_contrast
from actors.finetune.arms.cutmix import cutmixed, mixed_cross_entropy
from actors.finetune.arms.edits import edit_terms, soft_targets
from actors.finetune.arms.worst_group import GroupWeights
from actors.finetune.augment import blurred
from actors.finetune.batches import Batch
from actors.finetune.checkpoint.resharding import load_resized
from actors.finetune.checkpoint.safe_load import read_as_data
from actors.finetune.model import (
    BaseClassifier,
    Weights,
    adapted,
    freeze_batch_norm,
    gather_weights,
    merged,
    parameter_groups,
    prepare_precision,
    synchronise_buffers,
)
from actors.finetune.score import ValidationImages, mark_images
from actors.finetune.stream import Place
from actors.models.device import DTYPES, image_layout, upload
from engine.runfile.arms import ArmConfig
from engine.runfile.reinforce import ReinforceConfig
from engine.sample import Json
from engine.training.deepspeed import precision_name
from engine.training.recipe import learning_rate

TAG = "state"


class Trainer:
    """Train one arm with DeepSpeed, `config` being its own. All workers make the same calls in the same order."""

    def __init__(
        self,
        arm: ArmConfig,
        base: BaseClassifier,
        config: ReinforceConfig,
        deepspeed_settings: Mapping[str, Json],
        num_groups: int,
    ) -> None:
        import deepspeed

        self._arm = arm
        self._config = config
        self._preprocessing = base.preprocessing
        precision = precision_name(deepspeed_settings)
        self._dtype = DTYPES[precision]
        self._base = base
        model = self._model()
        prepare_precision(model, precision)
        # A torch optimizer: DeepSpeed's own would be compiled at the first run.
        # Its learning rate is set anew before each step.
        groups = parameter_groups(model, config.weight_decay, config.first_layer_rate)
        self._rates = [group.pop("rate") for group in groups]
        optimizer = torch.optim.AdamW(groups)
        self._head = model.get_submodule(base.heads[0]) if config.contrast else None
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=model, optimizer=optimizer, config={"zero_force_ds_cpu_optimizer": False, **deepspeed_settings}
        )
        self._teacher: nn.Module | None = None
        if config.distillation or config.soft_labels:
            self._teacher = base.model().eval().requires_grad_(False).to(self._engine.device, self._dtype)
        self.group_weights: GroupWeights | None = None
        if config.worst_group:
            self.group_weights = GroupWeights(num_groups, config.worst_group, self._engine.device)

    def train(self, batches: Sequence[Batch], step: int, seed: int) -> Tensor:
        """Make step number `step` (from 0) on its micro-batches and return the loss of this worker's images."""
        # Dropout must not depend on whether the run was resumed.
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * learning_rate(step, self._config)
        self._engine.train()
        if self._config.freeze_batch_norm or self._config.trained != "all":
            freeze_batch_norm(self._engine.module)
        first_weighted = round(self._config.worst_group_after * self._config.num_steps)
        total = torch.zeros((), device=self._engine.device)
        for batch in batches:
            loss = self._loss(batch, generator, weighs_groups=step >= first_weighted)
            self._engine.backward(loss)
            self._engine.step()
            total += loss.detach() / len(batches)
        return total

    @property
    def num_parts(self) -> int:
        """Return the number of micro-batches of a step."""
        return int(self._engine.gradient_accumulation_steps())

    @property
    def device(self) -> torch.device:
        """Return the device of this worker."""
        device: torch.device = self._engine.device
        return device

    def score(self, images: ValidationImages, place: Place) -> str:
        """Return which images the classifier gets right, as `mark_images` does."""
        synchronise_buffers(self._engine.module)
        self._engine.eval()
        return mark_images(
            lambda pixels: self._logits(self._inputs(pixels)),
            images,
            place,
            batch_size=self._config.batch_size // place.size,
            device=self._engine.device,
        )

    def weights(self) -> Weights:
        """Return the whole model, as it was scored."""
        weights = gather_weights(self._engine.module)
        if self._config.trained == "lora" and weights:
            weights = merged(weights, self._base, self._config.lora)
        return weights

    def save(self, folder: str) -> None:
        """Write this worker's part of the training state."""
        self._engine.save_checkpoint(folder, tag=TAG)

    def load(self, folder: str) -> None:
        """Load the training state that `save` wrote, with the same number of workers or another one.

        Raises RunDirectoryError where it holds code.
        """
        # None where the state is not cut (ZeRO 0).
        num_writers = len(list(Path(folder, TAG).glob("*_optim_states.pt"))) or None
        with read_as_data():
            if num_writers in (None, torch.distributed.get_world_size()):
                self._engine.load_checkpoint(folder, tag=TAG)
            else:
                load_resized(self._engine, Path(folder, TAG))

    def close(self) -> None:
        """Free the memory for the next arm."""
        self._engine.destroy()

    def _model(self) -> nn.Module:
        """Return a copy of the base classifier in which only what is trained has gradients."""
        if self._config.trained == "lora":
            return adapted(self._base, self._config.lora)
        model = self._base.model()
        if self._config.trained == "head":
            model.requires_grad_(False)
            for name in self._base.heads:
                model.get_submodule(name).requires_grad_(True)
        return model

    def _inputs(self, pixels: NDArray[Any]) -> Tensor:
        return self._preprocessing.inputs(pixels, self._engine.device)

    def _blurred(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        # Blur and CutMix may leave another layout behind.
        layout = image_layout(self._engine.device)
        return blurred(inputs, self._config.max_blur, generator).contiguous(memory_format=layout)

    def _logits(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self._engine(pixel_values=inputs.to(self._dtype)).logits
        return logits.float()

    def _loss(self, batch: Batch, generator: torch.Generator, *, weighs_groups: bool) -> Tensor:
        config, labels = self._config, self._upload(batch.labels)
        inputs = self._inputs(batch.pixels)
        if self._arm.mix == "cutmix":
            inputs, partners, shares = cutmixed(inputs, generator)
            logits = self._logits(self._blurred(inputs, generator))
            return mixed_cross_entropy(logits, labels, partners, shares)
        inputs = self._blurred(inputs, generator)
        with recorded_inputs([self._head] if self._head is not None else []) as features:
            logits = self._logits(inputs)
        pairs = self._upload(batch.pairs)
        before = self._answers_before(inputs[: batch.num_real])
        targets = labels
        if config.soft_labels and before is not None:
            targets = soft_targets(labels, before, pairs[:, 0], pairs[:, 1], config.soft_labels)
        if self.group_weights is not None and weighs_groups:
            losses = nn.functional.cross_entropy(logits, targets, reduction="none")
            loss = self.group_weights.loss(losses, self._upload(batch.groups))
        else:
            loss = nn.functional.cross_entropy(logits, targets)
        loss = loss + edit_terms(logits, pairs, before, config)
        if self._head is not None:
            loss = loss + config.contrast * supervised_contrast(features[self._head], labels)
        return loss

    def _upload(self, values: NDArray[np.int64]) -> Tensor:
        return upload(torch.from_numpy(values), self._engine.device)

    @torch.no_grad()
    def _answers_before(self, inputs: Tensor) -> Tensor | None:
        """Return the base classifier's logits of the real images of a batch, None where no loss needs them."""
        if self._teacher is None or not len(inputs):
            return None
        logits: Tensor = self._teacher(pixel_values=inputs.to(self._dtype)).logits.float()
        return logits
