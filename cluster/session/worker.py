"""The process of an actor: the kind of machine that it is on, and how it ends."""

import atexit
import os
import sys

from engine.processor import processor


def kind_of_machine(*, on_gpu: bool) -> str:
    """Return the name of the GPU or the processor that computes here, on which the last bits of images depend."""
    if on_gpu:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
    return processor()


def leave_quickly() -> None:
    """Have this actor's process end without freeing one by one what it holds: with torch that takes a core a second.

    Ray has said goodbye by then. In a process that is no actor nothing changes: a driver has more to do at its end.
    """
    import ray

    if ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None:
        # Called first, as the last that was registered.
        atexit.register(_leave)


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
