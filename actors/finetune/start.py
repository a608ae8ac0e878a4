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
from engine.errors import RunFileError, UserError
from engine.sample import Json
from engine.training.deepspeed import precision_name
from engine.training.settings import TrainSettings


def start_worker(settings: TrainSettings) -> Place:
    """Make this process ready for DeepSpeed; raise RunFileError where it refuses the settings."""
    placement = settings.config.placement
    device = resolve_device(placement)
    set_up_process(placement.num_threads)
    os.environ["DS_ACCELERATOR"] = device.type
    # Where DeepSpeed compiles something after all (CPU offload), it calls the ninja beside this Python.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if device.type == "cpu":
        leave_out_shared_memory()
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    _check_settings(settings.deepspeed, device)
    context = ray.train.get_context()
    return Place(rank=context.get_world_rank(), size=context.get_world_size())


def leave_out_shared_memory() -> None:
    """Have DeepSpeed compile no shared-memory collectives, which takes a minute and a compiler; gloo does without them.

    There is no public switch. Raises UserError where this version keeps its list of usable operators elsewhere.
    """
    import deepspeed.ops

    try:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    except AttributeError as error:
        raise UserError(
            f"DeepSpeed {deepspeed.__version__} has no deepspeed.ops.__compatible_ops__, by which its compiler is kept "
            "out: install the version that constraints.txt names"
        ) from error


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
