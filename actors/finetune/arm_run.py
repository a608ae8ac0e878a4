"""The run of one arm on one worker: its steps, its candidates for the best weights, its checkpoints."""

import itertools
import json
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from time import perf_counter

import ray.train
import torch
from safetensors.torch import save_file
from torch import nn

from actors.finetune.batches import BATCHES_AHEAD, Batch
from actors.finetune.images import RunImages
from actors.finetune.model import BaseClassifier, Weights, interpolate, share_weights
from actors.finetune.score import ValidationImages, mark_images
from actors.finetune.stream import Place
from actors.finetune.trainer import Trainer
from actors.models.batching import ahead
from actors.models.device import resolve_device
from engine.run.directory import RunDirectory
from engine.sample import Json, content_seed
from engine.training.gate import Gate, Score
from engine.training.progress import ArmRecord, Entry, Progress, Rank
from engine.training.recipe import batch_share, learning_rate
from engine.training.settings import TrainSettings

STATE = "progress.json"
BEST = "best.safetensors"


class Worker:
    """One worker of a training: its settings, its place among all, the base classifier and its images."""

    def __init__(self, settings: TrainSettings, place: Place) -> None:
        self.settings = settings
        self.place = place
        self.rundir = RunDirectory.open(settings.rundir)
        self.base = BaseClassifier(settings.model, settings.classes, offline=settings.offline)
        self.images = RunImages(settings, self.base, place)

    def mark(self, model: nn.Module, images: ValidationImages) -> str:
        """Return which images a model gets right, as `mark_images` does."""
        device = next(model.parameters()).device
        return mark_images(
            lambda pixels: model(pixel_values=self.base.preprocessing.inputs(pixels, device)).logits.float(),
            images,
            self.place,
            batch_size=self.settings.config.batch_size // self.place.size,
            device=device,
        )

    def mark_base(self, images: ValidationImages) -> str:
        """Return which images the base classifier gets right."""
        device = resolve_device(self.settings.config.placement)
        return self.mark(self.base.model().eval().to(device), images)

    def rank(self, name: str, progress: Progress) -> tuple[Progress, Rank]:
        """Return the gate's ranking of an arm's scores, and the progress with the base classifier's score."""
        images, config = self.images, self.settings.config.of_arm(name)
        base = progress.base or images.score(self.mark_base)
        gate = Gate(base=base, config=config, real_groups=images.real_groups, edit_groups=images.edit_groups)
        return replace(progress, base=base), partial(gate.rank, arm=config.arms[name])


def report(
    worker: Worker, name: str, progress: Progress, best: Weights, save: Callable[[str], None] | None = None
) -> None:
    """Hand a checkpoint of all workers to Ray Train, and the lines of history to the run directory.

    `save` writes this worker's part of the training state into a folder, where there is one.
    """
    with tempfile.TemporaryDirectory() as folder:
        if save is not None:
            save(folder)
        if worker.place.rank == 0:
            Path(folder, STATE).write_text(json.dumps(progress.to_json()))
            save_file(best, Path(folder, BEST))
            arms = progress.arms.items()
            lines: list[Json] = [{"arm": key, **asdict(line)} for key, record in arms for line in record.history]
            worker.rundir.write_json(worker.settings.history_path, lines)
        last = progress.arms[name].history[-1]
        metrics = {"arm": name, "step": last.step, "validation_accuracy": last.validation_accuracy}
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


class ArmRun:
    """The training of one arm: `progress` of all arms and, on the first worker, this arm's `best` weights so far."""

    def __init__(self, worker: Worker, name: str, progress: Progress, best: Weights, checkpoint: Path | None) -> None:
        self._worker = worker
        self._name = name
        self._config = worker.settings.config.of_arm(name)
        self.progress = progress
        self.best = best
        arm, settings, num_groups = self._config.arms[name], worker.settings, len(worker.images.groups)
        # Adapters begin at random.
        torch.manual_seed(content_seed(settings.seed, "reinforce/adapters"))
        self._trainer = Trainer(arm, worker.base, self._config, settings.deepspeed, num_groups)
        if checkpoint is not None:
            self._trainer.load(str(checkpoint))
            if self._trainer.group_weights is not None:
                self._trainer.group_weights.load(self.record.group_weights)

    @property
    def record(self) -> ArmRecord:
        """Return the progress of this arm."""
        return self.progress.arms.get(self._name, ArmRecord())

    @record.setter
    def record(self, record: ArmRecord) -> None:
        self.progress = self.progress.with_arm(self._name, record)

    def close(self) -> None:
        """Free the trainer's memory."""
        self._trainer.close()

    def train(self) -> None:
        """Make the steps that are left, and keep the best weights of those that are scored."""
        if self.record.step == self._config.num_steps:
            return
        rank, batches = self._rank(), self.batches()
        for last in range(self.record.step + 1, self._config.num_steps + 1):
            if last % self._config.eval_every and last != self._config.num_steps:
                continue
            entry, score = self.make_steps(batches, last)
            self.record = self.record.add(entry, score, rank)
            if self.record.best_step == last:
                self.best = self._trainer.weights()
            self.report()
        batches.close()

    def interpolate(self) -> None:
        """Score the weights between the base classifier's and the last step's, and keep the best of all."""
        if not self._config.interpolation:
            return
        rank = self._rank()
        self.record = replace(self.record, frontier=())
        base = self._worker.base
        end = share_weights(self._trainer.weights(), base, self._trainer.device)
        for share in self._config.interpolation:
            # A fresh model: some keep what they computed of their weights (LeViT, its attention biases).
            model = base.model()
            interpolate(model, base.weights(), end, share)
            model = model.eval().to(self._trainer.device)
            score = self._worker.images.score(partial(self._worker.mark, model))
            self.record = self.record.add_point(share, score, rank)
            if self.record.best_share == share:
                self.best = {name: value.cpu() for name, value in model.state_dict().items()}
        self.report()

    def batches(self) -> Generator[Batch]:
        """Yield this worker's micro-batches, from the first of the next step on."""
        share = batch_share(self._config, self._name, self._trainer.num_parts)
        images = self._worker.images.of_arm(self._name, self._worker.mark_base)
        first = self.record.step * self._trainer.num_parts
        return ahead(images.batches(share, self._worker.place, first), BATCHES_AHEAD)

    def make_steps(self, batches: Iterator[Batch], last: int) -> tuple[Entry, Score]:
        """Make the steps up to number `last`, and score the classifier."""
        trainer, place, first, start = self._trainer, self._worker.place, self.record.step, perf_counter()
        loss = torch.zeros((), device=trainer.device)
        for step in range(first, last):
            seed = content_seed(self._worker.settings.seed, f"reinforce/dropout/{step}/{place.rank}")
            loss += trainer.train(list(itertools.islice(batches, trainer.num_parts)), step, seed)
        seconds = perf_counter() - start
        score = self._worker.images.score(partial(trainer.score, place=place))
        loss /= last - first
        torch.distributed.all_reduce(loss)
        entry = Entry(
            step=last,
            loss=float(loss) / place.size,
            learning_rate=learning_rate(last - 1, self._config),
            images_per_second=round((last - first) * self._config.batch_size / seconds, 2),
            validation_accuracy=score.accuracy,
            validation_edits_accuracy=score.edits_accuracy,
        )
        return entry, score

    def report(self) -> None:
        """Hand a checkpoint of all workers to Ray Train, and the lines of history to the run directory."""
        if (groups := self._trainer.group_weights) is not None:
            self.record = replace(self.record, group_weights=tuple(groups.to_list()))
        report(self._worker, self._name, self.progress, self.best, self._trainer.save)

    def _rank(self) -> Rank:
        self.progress, rank = self._worker.rank(self._name, self.progress)
        return rank
