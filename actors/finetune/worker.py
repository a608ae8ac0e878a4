"""What each Ray Train worker runs: one worker group trains the arms one after another."""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray.train
import torch
from safetensors.torch import load_file

from actors.finetune.arm_run import BEST, STATE, ArmRun, Worker
from actors.finetune.fitted import fit_arm, open_features, probe_linearly
from actors.finetune.follow import Follower, StoppedError, follow_shards
from actors.finetune.frozen import FrozenFeatures
from actors.finetune.model import Weights
from actors.finetune.start import start_worker
from engine.errors import EngineError, UserError
from engine.training.progress import Progress
from engine.training.result import TrainOutput
from engine.training.settings import TrainSettings


def train_loop(config: Mapping[str, Any]) -> TrainOutput | EngineError:
    """Train every arm of `config["settings"]` and save its model; the function that Ray Train calls in each worker.

    An error that the user has to mend is returned: raised, it would be tried again max_failures times.
    """
    settings: TrainSettings = config["settings"]
    # All workers end alike here.
    try:
        worker = Worker(settings, start_worker(settings))
        frozen = open_features(worker)
    except UserError as error:
        return error
    checkpoint = ray.train.get_checkpoint()
    try:
        with checkpoint.as_directory() if checkpoint else nullcontext() as folder:
            return train_arms(worker, frozen, None if folder is None else Path(folder))
    except StoppedError as stopped:
        return stopped.error


def train_arms(worker: Worker, frozen: FrozenFeatures | None, checkpoint: Path | None) -> TrainOutput:
    """Train the arms, or what of them the checkpoint does not have yet."""
    progress = Progress()
    if checkpoint is not None:
        progress = Progress.from_json(json.loads((checkpoint / STATE).read_text()))
    follower = Follower(worker.settings, worker.images, worker.place) if worker.settings.follow else None
    has_edits = follower is None or follower.wait_for_edits()
    if follower is None:
        progress = _probed(worker, progress, frozen)
    for name in worker.settings.arms if has_edits else ():
        is_begun = name in progress.arms
        if is_begun and list(progress.arms)[-1] != name:
            continue
        progress = _train_arm(worker, name, progress, checkpoint if is_begun else None, follower, frozen)
    if progress.base is None:
        progress = replace(progress, base=worker.images.score(worker.mark_base))
    return worker.images.output(_probed(worker, progress, frozen))


def _probed(worker: Worker, progress: Progress, frozen: FrozenFeatures | None) -> Progress:
    """Return the progress with the linear probe, where there are edits and features."""
    if frozen is None or progress.linear_probe is not None or not worker.images.num_edits:
        return progress
    probe = probe_linearly(frozen)
    if probe is not None and worker.place.rank == 0:
        worker.rundir.write_json(worker.settings.probe_path, probe.to_json())
    return replace(progress, linear_probe=probe)


def _train_arm(
    worker: Worker,
    name: str,
    progress: Progress,
    checkpoint: Path | None,
    follower: Follower | None,
    frozen: FrozenFeatures | None,
) -> Progress:
    best: Weights = {}
    if checkpoint is not None and worker.place.rank == 0:
        best = load_file(checkpoint / BEST)
    is_complete = progress.is_complete(name, worker.settings.config)
    if not is_complete and frozen is not None and worker.settings.config.arms[name].fit:
        if follower is not None and progress.base is None:
            follower.wait_for_all()
        progress, best = fit_arm(worker, name, progress, frozen)
    elif not is_complete:
        run = ArmRun(worker, name, progress, best, checkpoint)
        if follower is not None and progress.base is None:
            follow_shards(run, follower)
        run.train()
        run.interpolate()
        run.close()
        progress, best = run.progress, run.best
    if worker.place.rank == 0:
        worker.base.save(best, worker.rundir.storage, f"models/{name}")
    # Nobody goes on, or ends the run, before the model is there.
    torch.distributed.barrier()
    return progress
