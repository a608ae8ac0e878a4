"""The attention kernel of a model: set by the call that its class understands, and checked to have taken effect."""

from importlib.util import find_spec
from typing import assert_never

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from actors.models.untyped import Model
from engine.errors import ModelError
from engine.runfile.fields import AttentionKernel


def set_attention(model: Model, kernel: AttentionKernel, device: torch.device) -> str:
    """Set a model's attention kernel and return the name of what is now in effect; raises ModelError.

    A UNet takes attention processors, a diffusion transformer a backend, a transformers model an implementation.
    Each class ignores or lacks the others' calls: `set_attention_backend` on a UNet does nothing (diffusers 0.42.1).
    """
    from transformers import PreTrainedModel

    if kernel == "xformers":
        _require_xformers(device)
    if isinstance(model, PreTrainedModel):
        return _set_transformers(model, kernel)
    # Not before: an actor of a captioner or a perturber alone has no use for diffusers, which takes a second to import.
    from diffusers import UNet2DConditionModel

    if isinstance(model, UNet2DConditionModel):
        return _set_unet(model, kernel, device)
    return _set_diffusion_transformer(model, kernel, device)


def _require_xformers(device: torch.device) -> None:
    if device.type != "cuda":
        raise ModelError(
            f"attention xformers runs on CUDA devices only, and this stage runs on {device.type}: "
            "use default or sdpa, or give the stage a GPU (placement.num_gpus)"
        )
    if find_spec("xformers") is None:
        raise ModelError("attention xformers needs the package xformers: pip install 'counterforge[gpu]', or use sdpa")


def _set_unet(unet: Model, kernel: AttentionKernel, device: torch.device) -> str:
    from diffusers.models.attention_processor import AttnProcessor2_0, XFormersAttnProcessor

    wanted: type
    match kernel:
        case "default":
            return _processor_names(unet)
        case "sdpa":
            wanted = AttnProcessor2_0
            unet.set_attn_processor(AttnProcessor2_0())
        case "flash":
            _probe_flash(unet, device)
            wanted = _flash_processor()
            unet.set_attn_processor(wanted())
        case "xformers":
            wanted = XFormersAttnProcessor
            unet.enable_xformers_memory_efficient_attention()
        case _:
            assert_never(kernel)
    others = {type(item).__name__ for item in unet.attn_processors.values() if type(item) is not wanted}
    if others:
        raise ModelError(f"attention {kernel} did not take effect: the UNet still has {sorted(others)}: use default")
    return _processor_names(unet)


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


def _set_diffusion_transformer(model: Model, kernel: AttentionKernel, device: torch.device) -> str:
    match kernel:
        case "default":
            return _backend_names(model)
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
    try:
        model.set_attention_backend(backend)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"attention {kernel} cannot be had for {type(model).__name__}: {error}") from error
    if (seen := _backend_names(model)) != backend:
        raise ModelError(f"attention {kernel} did not take effect: {type(model).__name__} has {seen}: use default")
    return backend


def _backend_names(model: Model) -> str:
    processors = [part.processor for part in model.modules() if hasattr(part, "processor")]
    backends = {getattr(item, "_attention_backend", None) for item in processors}
    return "+".join(sorted(getattr(item, "value", None) or "native" for item in backends)) or "native"


def _set_transformers(model: Model, kernel: AttentionKernel) -> str:
    match kernel:
        case "default":
            return _implementation_names(model)
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
    try:
        model.set_attn_implementation(implementation)
    except (ImportError, ValueError) as error:
        raise ModelError(f"attention {kernel} cannot be had for {type(model).__name__}: {error}") from error
    if (seen := _implementation_names(model)) != implementation:
        raise ModelError(f"attention {kernel} did not take effect: {type(model).__name__} has {seen}: use default")
    return implementation


def _implementation_names(model: Model) -> str:
    from transformers import PreTrainedModel

    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    return "+".join(sorted({str(getattr(part.config, "_attn_implementation", "unknown")) for part in parts}))
