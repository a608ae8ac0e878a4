"""How the networks of a pipeline lie in memory, and whether they are compiled."""

import os
import warnings
from pathlib import Path
from typing import Any, assert_never

import torch

from actors.editor.slots.packed import can_pack, pack
from actors.models.untyped import Model, Pipeline
from engine.runfile.fields import CompileMode, ModelConfig

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def lay_out(pipeline: Pipeline, model: ModelConfig, mode: CompileMode) -> str:
    """Lay out the UNet and the autoencoder for their convolutions, and return the name of the layout.

    Convolutions in half precision are twice as fast with channels last on a CPU, with results that may differ in the
    last bits. The UNet's weights are then bfloat16 too, to which autocast would convert them in each call, and packed
    where nothing compiles. On a GPU it pays where a compiler fuses what lies between the convolutions: alone, group
    norm knows no such layout and copies everything.
    """
    on_cpu = pipeline.device.type == "cpu"
    if model.dtype != "bfloat16" if on_cpu else (model.dtype == "float32" or mode == "off"):
        return "contiguous"
    if on_cpu:
        pipeline.unet.to(torch.bfloat16)
    for network in (pipeline.unet, pipeline.vae):
        network.to(memory_format=torch.channels_last)
        if on_cpu and mode == "off":
            _norm_contiguously(network)
    if on_cpu and mode == "off" and can_pack():
        pack(pipeline.unet)
        return "packed"
    return "channels_last"


def compile_networks(pipeline: Pipeline, mode: CompileMode, denoiser: Model) -> None:
    """Have denoiser and autoencoder compiled at their first call, in place and for one shape each.

    What was compiled is kept in TORCHINDUCTOR_CACHE_DIR, `cache_folder()` by default: a process that finds it there
    starts in a fraction of the time.
    """
    options: dict[str, Any]
    match mode:
        case "off":
            return
        case "default":
            # Kernels chosen by rule, not by timing: all GPUs of a kind give the same bits.
            options = {"deterministic": True}
        case "max-autotune":
            # Of diffusers' recipe for SDXL. No CUDA graphs: calls of 16 rows and more launch few kernels for their
            # time, and a graph would keep memory of its own. Searching in all directions finds a better tile where a
            # UNet's shapes are odd; a matrix product is faster than a convolution of 1x1.
            options = {
                "max_autotune": True,
                "conv_1x1_as_mm": True,
                "coordinate_descent_tuning": True,
                "coordinate_descent_check_all_directions": True,
                "epilogue_fusion": False,
            }
        case _:
            assert_never(mode)
    os.environ.setdefault(CACHE_VARIABLE, str(cache_folder() / "inductor"))
    # diffusers asks for torch's version while it runs, which is traced to the same answer.
    warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`", UserWarning)
    for network in (denoiser, pipeline.vae.encoder, pipeline.vae.decoder):
        network.compile(fullgraph=True, dynamic=False, options=options)


def cache_folder() -> Path:
    """Return the folder for what is measured and compiled once: COUNTERFORGE_CACHE, or one in the user's cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("COUNTERFORGE_CACHE") or home / "counterforge")


def _norm_contiguously(network: Model) -> None:
    """Have group norms work on contiguous copies: on channels last they take five times as long on a CPU."""
    for part in network.modules():
        if isinstance(part, torch.nn.GroupNorm):
            part.register_forward_pre_hook(_to_contiguous)
            part.register_forward_hook(_to_channels_last)


def _to_contiguous(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (inputs[0].contiguous(),)


def _to_channels_last(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    return output.contiguous(memory_format=torch.channels_last) if output.dim() == 4 else output
