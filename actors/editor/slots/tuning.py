"""A pipeline made fast on the machine that it is on: layout, attention kernel, rows of a call, compiler, memory."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import cast, get_args

import torch

from actors.editor.slots.layout import cache_folder, compile_networks, lay_out
from actors.editor.slots.measured_cache import remembered
from actors.editor.slots.memory import Fitted, rows_that_pay
from actors.editor.slots.unet import DeepFeatures, Prompt, UNet
from actors.models.attention import set_attention
from actors.models.untyped import Pipeline
from engine.errors import ModelError
from engine.runfile.editor import EditorConfig
from engine.runfile.fields import AttentionKernel
from engine.sample import Json

LOG = logging.getLogger(__name__)
NUM_TIMED = 5
# What a kernel must save of a UNet call to take the place of one that was tried before it: sdpa runs everywhere.
KERNEL_GAIN = 1.03


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """Hold a denoiser as it is best run here, and what decided so, as it goes into the provenance of every edit."""

    denoise: Fitted
    record: dict[str, Json]


def tune(
    pipeline: Pipeline,
    denoise: UNet,
    config: EditorConfig,
    *,
    size: int,
    most_rows: int,
    prompt: Prompt,
    about: Mapping[str, Json],
) -> Tuned:
    """Make a pipeline with a UNet fast, once: measure what the configuration leaves open, or remember it, and compile.

    A call has at most `most_rows` rows. `prompt` is an example, `about` names the model. What is measured is remembered
    for the kind of machine, so that all workers on one agree.
    """
    layout = lay_out(pipeline, config.model, config.compile)

    def seconds(num_rows: int) -> float:
        return call_seconds(denoise, example_rows(pipeline, size, num_rows, prompt), pipeline.device)

    about = {**about, **kind_of_machine(pipeline.device), "layout": layout, "size": size, "dtype": config.model.dtype}
    kernel = _attention(pipeline, config, lambda: seconds(most_rows), {**about, "rows": most_rows})
    num_rows = most_rows
    if config.unet_rows == "auto":
        known = {**about, "attention": kernel, "most_rows": most_rows}
        found = remembered(cache_folder(), "unet-rows", known, lambda: rows_that_pay(seconds, most_rows))
        num_rows = cast(int, found)
    elif config.unet_rows is not None:
        num_rows = min(config.unet_rows, most_rows)
    compile_networks(pipeline, config.compile, denoise.network)
    with torch.inference_mode():
        rows = example_rows(pipeline, size, num_rows, prompt)
        deep = [[DeepFeatures() for _ in range(num_rows)]] if config.deep_cache_interval > 1 else []
        fitted = Fitted(denoise, (*rows, *deep), name=f"UNet of {config.model.name}")
    record: dict[str, Json] = {
        "attention": kernel,
        "layout": layout,
        "compile": config.compile,
        "unet_rows": fitted.num_rows,
        "deep_cache_interval": config.deep_cache_interval,
    }
    return Tuned(denoise=fitted, record=record)


def example_rows(
    pipeline: Pipeline, size: int, num_rows: int, prompt: Prompt
) -> tuple[torch.Tensor, torch.Tensor, list[Prompt]]:
    """Return latents, times and prompts as the batcher gives them to a denoiser, of pictures of `size` pixels."""
    config, edge = pipeline.unet.config, size // int(pipeline.vae_scale_factor)
    latents = torch.randn(num_rows, config.in_channels, edge, edge, generator=torch.Generator().manual_seed(0))
    times = torch.linspace(0, pipeline.scheduler.config.num_train_timesteps - 1, num_rows, dtype=torch.float64)
    return latents.to(pipeline.device), times.to(pipeline.device), [prompt] * num_rows


def call_seconds(
    run: Callable[..., torch.Tensor],
    arguments: tuple[object, ...],
    device: torch.device,
    clock: Callable[[], float] = perf_counter,
) -> float:
    """Return the seconds of the quickest of some calls, after one that is not counted."""
    found = []
    with torch.inference_mode():
        for _ in range(1 + NUM_TIMED):
            start = clock()
            run(*arguments)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            found.append(clock() - start)
    return min(found[1:])


def kind_of_machine(device: torch.device) -> dict[str, Json]:
    """Return what decides which kernel is fastest, and is alike on machines of a kind."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "device": name,
        "threads": torch.get_num_threads() if device.type == "cpu" else 0,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "xformers": _version("xformers"),
    }


def _attention(
    pipeline: Pipeline, config: EditorConfig, seconds: Callable[[], float], about: Mapping[str, Json]
) -> str:
    """Set the attention kernel, the fastest that is remembered or measured where that is asked for; return its name."""
    kernel = config.attention
    if kernel == "fastest":
        known = {**about, "compile": config.compile}
        found = remembered(cache_folder(), "attention", known, lambda: _fastest(pipeline, config, seconds))
        kernel = cast(AttentionKernel, found)
    return set_attention(pipeline.unet, kernel, pipeline.device)


def _fastest(pipeline: Pipeline, config: EditorConfig, seconds: Callable[[], float]) -> AttentionKernel:
    """Return the kernel with which the UNet is fastest on its own shapes, of those that run here."""
    name = config.model.name
    best: AttentionKernel | None = None
    least = 0.0
    for kernel in cast(tuple[AttentionKernel, ...], get_args(AttentionKernel)):
        # What xformers does may not be traced in one graph, and would win little.
        if kernel == "default" or (kernel == "xformers" and config.compile != "off"):
            continue
        try:
            set_attention(pipeline.unet, kernel, pipeline.device)
            found = seconds()
        except (ModelError, RuntimeError, NotImplementedError) as error:
            LOG.info("attention %s is no choice for %s here: %s", kernel, name, error)
            continue
        LOG.info("attention %s: %.1f ms a call of %s", kernel, 1000 * found, name)
        if best is None or found * KERNEL_GAIN < least:
            best, least = kernel, found
    if best is None:
        raise ModelError(f"attention fastest: no kernel runs the UNet of {name} here: set attention to default")
    return best


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
