"""The fine-tuner: what each Ray Train worker runs. One worker group trains the arms one after another."""

import copy
import itertools
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import ray.train
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from actors.finetune.batches import BATCHES_AHEAD, Batch
from actors.finetune.follow import Follower, StoppedError
from actors.finetune.images import RunImages
from actors.finetune.model import Patient, Weights, interpolated
from actors.finetune.score import ValidationImages, mark_images
from actors.finetune.state import ArmRecord, Entry, FinetuneTask, Progress, Rank
from actors.finetune.stream import Place
from actors.finetune.trainer import Trainer
from actors.models.batching import ahead
from actors.models.device import resolve_device, set_up_process
from engine.errors import RunFileError, UserError
from engine.run.directory import RunDirectory
from engine.runfile.arms import ARMS, ArmName
from engine.sample import Json, content_seed
from engine.training.gate import Gate, Score
from engine.training.recipe import batch_share, precision_name, steps_allowed, steps_between_looks

STATE = "progress.json"
BEST = "best.safetensors"


def train_loop(config: Mapping[str, Any]) -> dict[str, Any]:
    """Train every arm of `config["task"]` and save its model; the function that Ray Train calls in each worker.

    Returns the progress as JSON, with the source of each validation edit and the number of images to draw from; or what
    the user has to mend, under "error".
    """
    task: FinetuneTask = config["task"]
    # All workers end alike here. Raised, an error would be tried again max_failures times, with the same end.
    try:
        finetuner = Finetuner(task, _start(task))
    except UserError as error:
        return {"error": error}
    checkpoint = ray.train.get_checkpoint()
    try:
        with checkpoint.as_directory() if checkpoint else nullcontext() as folder:
            return finetuner.run(None if folder is None else Path(folder))
    except StoppedError as stopped:
        return {"error": stopped.error}


class Finetuner:
    """Hold the patient and the images of one worker, and train the arms on them."""

    def __init__(self, task: FinetuneTask, place: Place) -> None:
        run = task.run
        if run.probe.model is None:
            raise RunFileError("probe.callable has no weights to train: set probe.model")
        self._task = task
        self._place = place
        self._rundir = RunDirectory.open(task.rundir)
        self._patient = Patient(run.probe.model, self._rundir.info.classes, offline=run.offline)
        self._images = RunImages(task, self._patient, place)
        self._follower = Follower(task, self._images, place) if task.follow else None

    def run(self, checkpoint: Path | None) -> dict[str, Any]:
        """Train what the checkpoint does not have yet."""
        progress = Progress()
        if checkpoint is not None:
            progress = Progress.from_json(json.loads((checkpoint / STATE).read_text()))
        arms = self._task.arms if self._follower is None or self._wait_for_edits(self._follower) else ()
        for name in arms:
            record = progress.arms.get(name)
            if record is not None and list(progress.arms)[-1] != name:
                continue
            progress = self._run_arm(name, progress, checkpoint if record else None)
        return asdict(self._with_patient(progress)) | self._images.describe()

    def _with_patient(self, progress: Progress) -> Progress:
        """Return the progress with the score of the classifier before any step."""
        if progress.patient is not None:
            return progress
        return replace(progress, patient=self._score(self._mark_patient))

    def _run_arm(self, name: ArmName, progress: Progress, checkpoint: Path | None) -> Progress:
        config = self._task.run.reinforce
        record = progress.arms.get(name, ArmRecord())
        best: Weights = {}
        if checkpoint is not None and self._place.rank == 0:
            best = load_file(checkpoint / BEST)
        if record.step < config.num_steps or len(record.frontier) < len(config.interpolation):
            arm = Trainer(ARMS[name], self._patient, config, self._task.deepspeed)
            if checkpoint is not None:
                arm.load(str(checkpoint))
            if self._follower is not None and progress.patient is None:
                progress = self._follow(name, arm, progress, self._follower)
            progress = self._with_patient(progress)
            if record.step < config.num_steps:
                progress, best = self._train(name, arm, progress, best)
            progress, best = self._interpolate(name, arm, progress, best)
            arm.close()
        if self._place.rank == 0:
            self._patient.save(best, self._rundir.storage, f"models/{name}")
        # Nobody goes on, or ends the run, before the model is there.
        torch.distributed.barrier()
        return progress

    def _train(self, name: ArmName, arm: Trainer, progress: Progress, best: Weights) -> tuple[Progress, Weights]:
        config, rank = self._task.run.reinforce, self._rank(name, progress)
        record = progress.arms.get(name, ArmRecord())
        batches = self._batches(name, arm, record.step)
        for last in range(record.step + 1, config.num_steps + 1):
            if last % config.eval_every and last != config.num_steps:
                continue
            entry, score = self._steps(arm, batches, record.step, last)
            record = record.add(entry, score, rank)
            if record.best_step == last:
                best = arm.weights()
            progress = progress.with_arm(name, record)
            self._report(name, arm, progress, best)
        batches.close()
        return progress, best

    def _batches(self, name: ArmName, arm: Trainer, first: int) -> Generator[Batch]:
        """Yield this worker's micro-batches from step number `first` (from 0) on."""
        share = batch_share(self._task.run.reinforce, ARMS[name], arm.num_parts)
        images = self._images.of_arm(ARMS[name], self._mark_patient)
        return ahead(images.batches(share, self._place, first * arm.num_parts), BATCHES_AHEAD)

    def _steps(self, arm: Trainer, batches: Iterator[Batch], first: int, last: int) -> tuple[Entry, Score]:
        """Make the steps from number `first` (from 0) up to `last`, and score what they made."""
        config, start = self._task.run.reinforce, perf_counter()
        loss = torch.zeros((), device=arm.device)
        for step in range(first, last):
            seed = self._seed(f"dropout/{step}/{self._place.rank}")
            loss += arm.train(list(itertools.islice(batches, arm.num_parts)), step, seed)
        seconds = perf_counter() - start
        score = self._score(partial(arm.score, place=self._place))
        entry = Entry(
            step=last,
            loss=self._mean(loss / (last - first)),
            learning_rate=arm.learning_rate(last - 1),
            images_per_second=round((last - first) * config.batch_size / seconds, 2),
            validation_accuracy=score.accuracy,
            validation_edits_accuracy=score.edits_accuracy,
        )
        return entry, score

    def _wait_for_edits(self, follower: Follower) -> bool:
        """Return whether there is an edit to train on, once there is one or all shards are done."""
        while not (is_complete := follower.look().is_complete) and not self._images.num_edits:
            follower.wait()
        if is_complete:
            self._images.score_on(self._images.contents)
        return self._images.num_edits > 0

    def _follow(self, name: ArmName, arm: Trainer, progress: Progress, follower: Follower) -> Progress:
        """Train in pace with the shards until all are done; no weights of this time are a candidate."""
        config, record = self._task.run.reinforce, progress.arms.get(name, ArmRecord())
        count = steps_between_looks(config)
        while not (look := follower.look()).is_complete:
            last = record.step + count
            if last > steps_allowed(config, look.num_done, look.num_shards):
                follower.wait()
                continue
            batches = self._batches(name, arm, record.step)
            entry, _ = self._steps(arm, batches, record.step, last)
            batches.close()
            record = record.add_line(replace(entry, num_shards=look.num_done, of_shards=look.num_shards))
            progress = progress.with_arm(name, record)
            self._report(name, arm, progress, {})
        self._images.score_on(self._images.contents)
        return progress

    def _interpolate(self, name: ArmName, arm: Trainer, progress: Progress, best: Weights) -> tuple[Progress, Weights]:
        """Score the weights between the patient's and the last step's, and keep the best of all."""
        config, rank = self._task.run.reinforce, self._rank(name, progress)
        record = replace(progress.arms[name], frontier=())
        model = self._patient.model()
        start, end = copy.deepcopy(model.state_dict()), self._shared(arm.weights())
        model = model.eval().to(arm.device)
        for share in config.interpolation:
            weights = interpolated(start, end, share)
            model.load_state_dict(weights)
            record = record.add_point(share, self._score(partial(self._mark, model)), rank)
            if record.best_share == share:
                best = weights
        progress = progress.with_arm(name, record)
        if config.interpolation:
            self._report(name, arm, progress, best)
        return progress, best

    def _rank(self, name: ArmName, progress: Progress) -> Rank:
        assert progress.patient is not None
        gate = Gate(
            patient=progress.patient,
            config=self._task.run.reinforce,
            real_groups=self._images.real_groups,
            edit_groups=self._images.edit_groups,
        )
        return partial(gate.rank, arm=ARMS[name])

    def _mark(self, model: nn.Module, images: ValidationImages) -> str:
        device = next(model.parameters()).device
        return mark_images(
            lambda pixels: model(pixel_values=self._patient.preprocessing.inputs(pixels, device)).logits.float(),
            images,
            self._place,
            batch_size=self._task.run.reinforce.batch_size // self._place.size,
            device=device,
        )

    def _mark_patient(self, images: ValidationImages) -> str:
        device = resolve_device(self._task.run.reinforce.placement)
        return self._mark(self._patient.model().eval().to(device), images)

    def _shared(self, weights: Weights) -> Weights:
        """Return the first worker's weights to all of them."""
        box = [weights]
        torch.distributed.broadcast_object_list(box)
        return box[0]

    def _report(self, name: str, arm: Trainer, progress: Progress, best: Weights) -> None:
        """Hand a checkpoint of all workers to Ray Train, and show the line to whoever watches the run directory."""
        with tempfile.TemporaryDirectory() as folder:
            arm.save(folder)
            if self._place.rank == 0:
                Path(folder, STATE).write_text(json.dumps(asdict(progress)))
                save_file(best, Path(folder, BEST))
                arms = progress.arms.items()
                lines: list[Json] = [{"arm": key, **asdict(line)} for key, record in arms for line in record.history]
                self._rundir.write_json(self._task.history_path, lines)
            last = progress.arms[name].history[-1]
            metrics = {"arm": name, "step": last.step, "validation_accuracy": last.validation_accuracy}
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def _score(self, mark: Callable[[ValidationImages], str]) -> Score:
        images = self._images
        edits, held_out = (mark(part) if len(part.labels) else "" for part in (images.edits, images.held_out))
        return Score(real=mark(images.validation), edits=edits, held_out=held_out)

    def _seed(self, purpose: str) -> int:
        return content_seed(self._task.run.seed, f"reinforce/{purpose}")

    def _mean(self, value: torch.Tensor) -> float:
        """Return the mean of a number over the workers."""
        torch.distributed.all_reduce(value)
        return float(value) / self._place.size


def _start(task: FinetuneTask) -> Place:
    """Make this process ready for DeepSpeed, which reads the environment when it is imported."""
    placement = task.run.reinforce.placement
    device = resolve_device(placement)
    set_up_process(placement.num_threads)
    os.environ["DS_ACCELERATOR"] = device.type
    # Where DeepSpeed compiles something after all (CPU offload), it calls the ninja beside this Python.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    import deepspeed.ops

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if device.type == "cpu":
        # Left alone, it compiles shared-memory collectives for a minute; gloo does without, and without a compiler.
        deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    _check_settings(task.deepspeed, device)
    context = ray.train.get_context()
    return Place(rank=context.get_world_rank(), size=context.get_world_size())


def _check_settings(settings: Mapping[str, Json], device: torch.device) -> None:
    """Have DeepSpeed read its settings before anything is made; raise RunFileError with what it says."""
    from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError

    try:
        DeepSpeedConfig(dict(settings))
    except (ValueError, TypeError, AssertionError, DeepSpeedConfigError) as error:
        said = " ".join(line.strip() for line in str(error).strip().splitlines()[:4])
        raise RunFileError(f"reinforce.deepspeed: DeepSpeed refuses the settings: {said}") from error
    if device.type == "cpu" and precision_name(settings) == "float16":
        raise RunFileError("reinforce.deepspeed enables fp16, which is not for a CPU: enable bf16, or give it a GPU")
