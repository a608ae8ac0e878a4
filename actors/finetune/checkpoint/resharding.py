"""Resharding of a checkpoint: loading it with another number of workers than it was written by.

DeepSpeed partitions its state by the number of workers and refuses it under another one. Here the parts are joined
(its universal checkpoint) and partitioned again. Weights, optimizer moments, number of steps, learning rate and the
order of the real images are exact. Not exact is the position in the round of edits, as the shards are assigned anew: in
that round some edits come twice and some not at all. Blur, dropout and batch norm act on another part of the batch, and
sums of gradients round differently.
"""

import contextlib
import io
import os
import shutil
import tempfile
import uuid
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from actors.models.untyped import Model

NAME = "universal"


def load_resized(engine: Model, state: Path) -> None:
    """Load a checkpoint of another number of workers; all workers must call it."""
    box: list[Any] = [uuid.uuid4().hex]
    torch.distributed.broadcast_object_list(box)
    # One for the workers of a machine, who share its temporary folder.
    folder = Path(tempfile.gettempdir(), f"counterforge-{box[0]}")
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    if is_first:
        _convert(state, folder / NAME)
    torch.distributed.barrier()
    try:
        # Only for this load: the setting of that name, left on, has ZeRO-3 save the model's state of one worker alone
        # (DeepSpeed #7546).
        engine.load_universal_checkpoint = lambda: True
        engine.load_checkpoint(str(folder), tag=NAME)
    finally:
        del engine.load_universal_checkpoint
    _load_buffers(engine.module, state)
    torch.distributed.barrier()
    if is_first:
        shutil.rmtree(folder)


def _load_buffers(model: torch.nn.Module, state: Path) -> None:
    """Set batch norm's statistics, which a universal checkpoint leaves out; every worker's file has the same."""
    first = min(state.glob("*_model_states.pt"))
    saved = torch.load(first, map_location="cpu", weights_only=True)["module"]
    for name, buffer in model.named_buffers():
        if name in saved:
            buffer.copy_(saved[name])


def _convert(state: Path, folder: Path) -> None:
    from deepspeed.checkpoint.ds_to_universal import main

    folder.mkdir(parents=True)
    settings = Namespace(
        input_folder=str(state),
        output_folder=str(folder),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        # ZeRO 1 and 2 do not write what the conversion asks for; there is nothing in it for plain data parallelism.
        inject_missing_state=True,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(settings)
