"""One of several plain processes that train an arm: makes steps, saves, or goes on from what others saved."""

import os
from pathlib import Path

import deepspeed
import numpy as np
import torch
from finetune_run import CLASSES, SIZE

from actors.finetune.batches import Batch
from actors.finetune.model import BaseClassifier
from actors.finetune.start import leave_out_shared_memory
from actors.finetune.trainer import Trainer
from engine.runfile.arms import PRESETS
from engine.runfile.fields import ModelConfig
from engine.runfile.reinforce import ReinforceConfig
from engine.training.deepspeed import deepspeed_settings

SEED_OF_BATCHES = 5


def main(rank: int, world: int, port: int, patient_folder: str, stage: str, steps: str, saved: str, out: str) -> None:
    """Be one of `world` workers; `saved` is "-" or a checkpoint folder.

    Writes the checkpoint and the whole model to `out` after the steps, of which there may be none.
    """
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "LOCAL_SIZE": str(world),
        "RANK": str(rank), "LOCAL_RANK": str(rank),
    }  # fmt: skip
    leave_out_shared_memory()
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
    zero = {"stage": int(stage)} | ({"stage3_param_persistence_threshold": 0} if stage == "3" else {})
    config = ReinforceConfig(
        num_steps=20,
        batch_size=8,
        num_workers=world,
        max_blur=0.0,
        first_layer_rate=0.5,
        deepspeed={"zero_optimization": zero},
    )
    patient = BaseClassifier(ModelConfig(name=patient_folder), CLASSES, offline=True)
    arm = Trainer(PRESETS["real_only"], patient, config, deepspeed_settings(config), num_groups=0)
    first = 0
    if saved != "-":
        arm.load(saved)
        first = int(Path(saved, "steps").read_text())
    for step in range(first, first + int(steps)):
        arm.train([batch(step, config.batch_size // world)], step, seed=step)
    arm.save(out)
    weights = arm.weights()
    if torch.distributed.get_rank() == 0:
        torch.save(weights, Path(out, "weights.pt"))
        Path(out, "steps").write_text(str(first + int(steps)))
    # Else Python ends while gloo's threads still run, and now and then that is an abort.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def batch(step: int, size: int) -> Batch:
    """Return this process's part of a batch that is the same however many share it."""
    rng = np.random.default_rng([SEED_OF_BATCHES, step])
    pixels = rng.integers(0, 256, (8, 3, SIZE, SIZE), dtype=np.uint8)
    part = slice(start := torch.distributed.get_rank() * size, start + size)
    labels = (pixels[:, 0].mean(axis=(1, 2)) > 127).astype(np.int64)
    return Batch(
        pixels=pixels[part],
        labels=labels[part],
        groups=np.zeros(size, np.int64),
        num_real=size,
        pairs=np.zeros((0, 2), np.int64),
    )
