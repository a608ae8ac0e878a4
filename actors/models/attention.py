"""The attention kernel of a model: set by the call that its class understands, and checked to have taken effect."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal, assert_never

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from actors.models.untyped import Model
from engine.errors import ModelError
from engine.runfile.fields import AttentionKernel

Kernel = Literal["sdpa", "flash", "xformers"]


def set_attention(model: Model, kernel: AttentionKernel, device: torch.device) -> str:
    """Set a model's attention kernel and return the name of what is now in effect; raises ModelError.

    A UNet takes attention processors, a diffusion transformer a backend, a transformers model an implementation.
    Each class ignores or lacks the others' calls: `set_attention_backend` on a UNet does nothing (diffusers 0.42.1).
    """
    from transformers import PreTrainedModel

    if kernel == "xformers":
        _require_xformers(device)
    install: Callable[[Model, Kernel, torch.device], str]
    names: Callable[[Model], str]
    if isinstance(model, PreTrainedModel):
        install, names = _set_implementation, _implementation_names
    else:
        # Not before: an actor of a captioner or a perturber alone has no use for diffusers, a second to import.
        from diffusers import UNet2DConditionModel

        is_unet = isinstance(model, UNet2DConditionModel)
        install, names = (_set_processors, _processor_names) if is_unet else (_set_backend, _backend_names)
    if kernel == "default":
        return names(model)
    try:
        wanted = install(model, kernel, device)
    except (ImportError, RuntimeError, ValueError) as error:
        raise ModelError(f"attention {kernel} cannot be had for {type(model).__name__}: {error}") from error
    if (seen := names(model)) != wanted:
        raise ModelError(f"attention {kernel} did not take effect: {type(model).__name__} has {seen}: use default")
    return wanted


def _require_xformers(device: torch.device) -> None:
    if device.type != "cuda":
        raise ModelError(
            f"attention xformers runs on CUDA devices only, and this stage runs on {device.type}: "
            "use default or sdpa, or give the stage a GPU (placement.num_gpus)"
        )
    if find_spec("xformers") is None:
        raise ModelError("attention xformers needs the package xformers: pip install 'counterforge[gpu]', or use sdpa")


def _set_processors(unet: Model, kernel: Kernel, device: torch.device) -> str:
    from diffusers.models.attention_processor import AttnProcessor2_0, XFormersAttnProcessor

    match kernel:
        case "sdpa":
            processor = AttnProcessor2_0()
        case "flash":
            _probe_flash(unet, device)
            processor = _flash_processor()()
        case "xformers":
            unet.enable_xformers_memory_efficient_attention()
            return str(XFormersAttnProcessor.__name__)
        case _:
            assert_never(kernel)
    unet.set_attn_processor(processor)
    return type(processor).__name__


def _processor_names(unet: Model) -> str:
    return "+".join(sorted({type(item).__name__ for item in unet.attn_processors.values()}))


def _flash_processor() -> type:
    """Return a processor class that allows scaled_dot_product_attention no kernel but flash."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    class FlashAttnProcessor(AttnProcessor2_0):  # type: ignore[misc]  # diffusers is untyped
        """Run scaled_dot_product_attention with the flash kernel or not at all."""

        def __call__(self, *args: object, **kwargs: object) -> object:
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return super().__call__(*args, **kwargs)

    return FlashAttnProcessor


def _probe_flash(model: Model, device: torch.device) -> None:
    """Run the flash kernel once for each head width of the model, so that a refusal comes before the run."""
    dtype = next(model.parameters()).dtype
    parts = [part for part in model.modules() if hasattr(part, "to_q") and hasattr(part, "heads")]
    widths = sorted({part.to_q.out_features // part.heads for part in parts})
    for width in widths or [64]:
        query = torch.zeros(1, 1, 16, width, device=device, dtype=dtype)
        try:
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                torch.nn.functional.scaled_dot_product_attention(query, query, query)
        except RuntimeError as error:
            raise ModelError(
                f"attention flash does not run with {dtype} and heads of {width} on {device.type}: "
                "a GPU wants bfloat16 or float16 and heads of at most 256: set model.dtype, or use sdpa"
            ) from error


def _set_backend(model: Model, kernel: Kernel, device: torch.device) -> str:
    match kernel:
        case "sdpa":
            backend = "native"
        case "flash":
            backend = "flash" if find_spec("flash_attn") is not None else "_native_flash"
            if backend == "_native_flash":
                _probe_flash(model, device)
        case "xformers":
            backend = "xformers"
        case _:
            assert_never(kernel)
    model.set_attention_backend(backend)
    return backend


def _backend_names(model: Model) -> str:
    processors = [part.processor for part in model.modules() if hasattr(part, "processor")]
    backends = {getattr(item, "_attention_backend", None) for item in processors}
    return "+".join(sorted(getattr(item, "value", None) or "native" for item in backends)) or "native"


def _set_implementation(model: Model, kernel: Kernel, _: torch.device) -> str:
    match kernel:
        case "sdpa":
            implementation = "sdpa"
        case "flash":
            if find_spec("flash_attn") is None:
                raise ModelError("attention flash needs the package flash-attn: pip install flash-attn, or use sdpa")
            implementation = "flash_attention_2"
        case "xformers":
            raise ModelError(f"attention xformers is not for {type(model).__name__}: use sdpa or flash")
        case _:
            assert_never(kernel)
    model.set_attn_implementation(implementation)
    return implementation


def _implementation_names(model: Model) -> str:
    from transformers import PreTrainedModel

    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    return "+".join(sorted({str(getattr(part.config, "_attn_implementation", "unknown")) for part in parts}))
