"""Safe loading of checkpoints: they are pickles, and a run directory may come from somebody else."""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engine.errors import RunDirectoryError

FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@contextmanager
def read_as_data() -> Iterator[None]:
    """Restrict torch.load in the body to tensors, plain values and DeepSpeed's few records; no code is run.

    DeepSpeed asks for weights_only=False everywhere; this variable of torch wins over that. Raises RunDirectoryError
    where a checkpoint holds anything else.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    # All that DeepSpeed 0.19.8 writes beside tensors, numbers and texts, in every ZeRO stage.
    known = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
    before = os.environ.get(FORCE)
    os.environ[FORCE] = "1"
    try:
        with torch.serialization.safe_globals(known):
            yield
    except pickle.UnpicklingError as error:
        raise RunDirectoryError(
            f"a checkpoint of the training holds what none of ours does, and it was not run: {_said(error)} Delete "
            "checkpoints/ in the run directory, then the training begins anew; look into where it came from"
        ) from error
    finally:
        os.environ.pop(FORCE)
        if before is not None:
            os.environ[FORCE] = before


def _said(error: pickle.UnpicklingError) -> str:
    """Return torch's sentence that names what was found, without its advice to load it all the same."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "GLOBAL" in line or "Unsupported" in line), lines[0])
