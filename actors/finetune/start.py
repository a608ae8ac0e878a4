"""The start of a training worker: DeepSpeed reads its environment when it is imported."""

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import ray.train
import torch

from actors.finetune.stream import Place
from actors.models.device import resolve_device, set_up_process
from engine.errors import RunFileError
from engine.sample import Json
from engine.training.recipe import precision_name
from engine.training.settings import TrainSettings


def start_worker(settings: TrainSettings) -> Place:
    """Make this process ready for DeepSpeed; raise RunFileError where it refuses the settings."""
    placement = settings.config.placement
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
    _check_settings(settings.deepspeed, device)
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
