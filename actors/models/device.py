"""Devices, threads, memory and number formats of one actor."""

import ctypes
from contextlib import AbstractContextManager, nullcontext

import torch

from engine.errors import ModelError, PlacementError
from engine.runfile.fields import ModelConfig, Placement

# Of mallopt(3): what to set, and the largest threshold that every glibc takes on 64 bits.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MMAP_THRESHOLD_MAX = 32 << 20
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(placement: Placement) -> torch.device:
    """Return the device that a placement asks for, refuse it where there is none."""
    wants_gpu = placement.device == "cuda" or (placement.device == "auto" and placement.num_gpus > 0)
    if not wants_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise PlacementError(
            f"placement asks for a GPU (device {placement.device}, num_gpus {placement.num_gpus:g}), but CUDA is not "
            "available to this process: set device to cpu and num_gpus to 0, or install a CUDA build of torch"
        )
    return torch.device("cuda")


def num_readers(placement: Placement) -> int:
    """Return how many threads read images: one for each core of a placement."""
    return max(1, int(placement.num_cpus))


def fix_threads(num_threads: int) -> None:
    """Fix the threads of this process, and have CUDA choose the same algorithms each time: bytes depend on both.

    On one kind of machine the same batch gives the same bits at any fixed number; with one thread a row's place in the
    batch did not matter either, on any that was tried (with two, CLIP embeddings moved by 6e-8).
    """
    torch.set_num_threads(num_threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def set_up_process(num_threads: int) -> None:
    """Set the process of an actor or a training to what it keeps to its end: its threads, and the memory it frees.

    On a CPU each call of a network makes the same tensors again. Glibc gives the large ones back to Linux, which then
    clears every page anew: 6,000 pages a call of the demo's UNet, an eighth of the time of a training step. Here it
    keeps them; elsewhere than on glibc nothing changes.
    """
    fix_threads(num_threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_MAX)
        mallopt(M_TRIM_THRESHOLD, -1)


def image_layout(device: torch.device) -> torch.memory_format:
    """Return the layout of a classifier's inputs (n, channels, height, width) that suits a device best.

    On a CPU convolutions and pooling are faster with channels last, whatever layout the weights have: a step of the
    demo's ResNet by a fifth, its answers by a third. On a GPU that was not measured, and the order stays as it is.
    """
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the CPU on a device.

    A GPU reads it when it comes to it, from memory that it can read by itself: `to` would wait until the GPU has done
    all that it was given, and then leave it without work.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def weights_dtype(model: ModelConfig, device: torch.device) -> torch.dtype:
    """Return the dtype that the weights are loaded in; on a CPU that is always float32 (see `precision`)."""
    if device.type == "cpu":
        if model.dtype == "float16":
            raise ModelError(
                f"model {model.name!r}: float16 is not for a CPU: use bfloat16 or float32, or give it a GPU"
            )
        return torch.float32
    return DTYPES[model.dtype]


def precision(model: ModelConfig, device: torch.device) -> AbstractContextManager[object]:
    """Return the context to run a model in: bfloat16 autocast where a CPU was asked for bfloat16, else nothing."""
    if device.type == "cpu" and model.dtype == "bfloat16":
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return nullcontext()
