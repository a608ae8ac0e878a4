"""The fine-tuner: what each Ray Train worker runs. One worker group trains the arms one after another."""

import json
import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import ray.train
import torch
from safetensors.torch import load_file, save_file

from actors.device import fix_threads, resolve_device
from actors.finetune_arm import Arm, ValidationImages
from actors.finetune_data import (
    Counterfactuals,
    DecodedImages,
    Place,
    RealImages,
    TrainingImages,
    ahead,
    read_validation_edits,
)
from actors.finetune_model import Patient, Weights
from actors.finetune_state import ArmRecord, Entry, FinetuneTask, Progress
from engine.errors import RunFileError, SourceError, UserError
from engine.gate import Score
from engine.recipe import ArmName, batch_share, precision_name
from engine.rundir import RunDirectory
from engine.sample import Json, Split, content_seed
from engine.sources import SourceItem, open_source
from engine.splits import split_of

STATE = "progress.json"
BEST = "best.safetensors"
# More would cost time at every checkpoint and say little: the interval of an accuracy near 0.9 is +- 0.6 points here.
MAX_VALIDATION_IMAGES = 10_000


def train_loop(config: Mapping[str, Any]) -> dict[str, Any]:
    """Train every arm of `config["task"]` and save its model; the function that Ray Train calls in each worker.

    Returns the progress as JSON, with the source of each validation edit and the number of images to draw from; or what
    the user has to mend, under "error".
    """
    task: FinetuneTask = config["task"]
    try:
        finetuner = Finetuner(task, _start(task))
    except UserError as error:
        # All workers end alike here. Raised, it would be tried again max_failures times, with the same end.
        return {"error": error}
    checkpoint = ray.train.get_checkpoint()
    with checkpoint.as_directory() if checkpoint else nullcontext() as folder:
        return finetuner.run(None if folder is None else Path(folder))


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
        self._real, self._validation, self._splits = self._real_images()
        images, labels, self._edit_sources = read_validation_edits(self._rundir, task.contents)
        self._edits = ValidationImages(
            images=DecodedImages(images.__getitem__, self._patient.preprocessing), labels=labels
        )

    def run(self, checkpoint: Path | None) -> dict[str, Any]:
        """Train what the checkpoint does not have yet."""
        progress = Progress()
        if checkpoint is not None:
            progress = Progress.from_json(json.loads((checkpoint / STATE).read_text()))
        if progress.patient is None:
            progress = replace(progress, patient=self._score_patient())
        for name in self._task.arms:
            record = progress.arms.get(name)
            if record is not None and list(progress.arms)[-1] != name:
                continue
            progress = self._run_arm(name, progress, checkpoint if record else None)
        return asdict(progress) | {
            "edit_sources": list(self._edit_sources),
            "images": {"replay": len(self._real.items), "counterfactuals": sum(s.train for s in self._task.contents)},
        }

    def _run_arm(self, name: ArmName, progress: Progress, checkpoint: Path | None) -> Progress:
        config = self._task.run.reinforce
        record = progress.arms.get(name, ArmRecord())
        best: Weights = {}
        if checkpoint is not None and self._place.rank == 0:
            best = load_file(checkpoint / BEST)
        if record.step < config.num_steps:
            arm = self._make_arm()
            if checkpoint is not None:
                arm.load(str(checkpoint))
            progress, best = self._train(name, arm, progress, best)
            arm.close()
        if self._place.rank == 0:
            self._patient.save(best, self._rundir.storage, f"models/{name}")
        # Nobody goes on, or ends the run, before the model is there.
        torch.distributed.barrier()
        return progress

    def _train(self, name: ArmName, arm: Arm, progress: Progress, best: Weights) -> tuple[Progress, Weights]:
        config, patient = self._task.run.reinforce, progress.patient
        record = progress.arms.get(name, ArmRecord())
        assert patient is not None
        share, first = batch_share(config, name), record.step
        batches = ahead(self._training_images(name).batches(share, self._place, first))
        loss, start, since = torch.zeros((), device=arm.device), perf_counter(), first
        for step, batch in zip(range(first, config.num_steps), batches, strict=False):
            loss += arm.train(batch, step, self._seed(f"dropout/{step}/{self._place.rank}"))
            done = step + 1
            if done % config.eval_every and done != config.num_steps:
                continue
            seconds = perf_counter() - start
            score = self._score(arm)
            entry = Entry(
                step=done,
                loss=self._mean(loss / (done - since)),
                learning_rate=arm.learning_rate(step),
                images_per_second=round((done - since) * config.batch_size / seconds, 2),
                validation_accuracy=score.accuracy,
                validation_edits_accuracy=score.edits_accuracy,
            )
            record = record.add(entry, score, patient, config)
            if record.best_step == done:
                best = arm.weights()
            progress = progress.with_arm(name, record)
            self._report(name, entry, arm, progress, best)
            loss, start, since = torch.zeros_like(loss), perf_counter(), done
        batches.close()
        return progress, best

    def _report(self, name: str, entry: Entry, engine: Arm, progress: Progress, best: Weights) -> None:
        """Hand a checkpoint of all workers to Ray Train, and show the line to whoever watches the run directory."""
        with tempfile.TemporaryDirectory() as folder:
            engine.save(folder)
            if self._place.rank == 0:
                Path(folder, STATE).write_text(json.dumps(asdict(progress)))
                save_file(best, Path(folder, BEST))
                arms = progress.arms.items()
                lines: list[Json] = [{"arm": arm, **asdict(line)} for arm, record in arms for line in record.history]
                self._rundir.write_json(self._task.history_path, lines)
            metrics = {"arm": name, "step": entry.step, "validation_accuracy": entry.validation_accuracy}
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def _make_arm(self) -> Arm:
        return Arm(self._patient.model(), self._patient.preprocessing, self._task.run.reinforce, self._task.deepspeed)

    def _score_patient(self) -> Score:
        arm = self._make_arm()
        score = self._score(arm)
        arm.close()
        return score

    def _score(self, arm: Arm) -> Score:
        edits = arm.score(self._edits, self._place) if self._edit_sources else ""
        return Score(real=arm.score(self._validation, self._place), edits=edits)

    def _real_images(self) -> tuple[RealImages, ValidationImages, dict[str, Split]]:
        """Return the real images of the train and the validation split, and the split of every source, by its hash."""
        run, plan = self._task.run, self._rundir.plan()
        source = open_source(run.data.train)
        by_split: dict[Split, list[SourceItem]] = {"train": [], "validation": [], "test": []}
        splits: dict[str, Split] = {}
        for split in by_split:
            for planned in plan.of_split(split):
                splits[planned.item.key] = split_of(planned.item.split_key, run.data.splits, run.seed)
                by_split[splits[planned.item.key]].append(planned.item)
        for split in ("train", "validation"):
            if not by_split[split]:
                raise SourceError(
                    f"the {split} split of data.train has no image: fine-tuning needs real images of it; "
                    f"raise data.splits.{split} or add images"
                )
        held = by_split["validation"][:MAX_VALIDATION_IMAGES]
        real = RealImages(source, by_split["train"], self._patient.preprocessing)
        validation = RealImages(source, held, self._patient.preprocessing)
        return real, ValidationImages(images=validation.image, labels=validation.labels), splits

    def _training_images(self, name: ArmName) -> TrainingImages:
        seed = self._seed("images")
        counterfactuals = None
        if name == "reinforced":
            counterfactuals = Counterfactuals(self._rundir, self._task.contents, self._splits, self._place, seed)
        return TrainingImages(self._real, counterfactuals, self._patient.preprocessing, seed)

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
    fix_threads(placement.num_threads)
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
