"""Tuning of a pipeline to this machine: memory layout, attention kernel, rows of a UNet call, compiler.

What is measured is kept on disk by kind of machine, for all processes that see the folder.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import cast, get_args

import torch

from actors.editor.slots.layout import cache_folder, compile_networks, lay_out
from actors.editor.slots.memory import Fitted, rows_that_pay
from actors.editor.slots.unet import DeepFeatures, Prompt, UNet
from actors.models.attention import set_attention
from actors.models.untyped import Pipeline
from engine.errors import ModelError
from engine.processor import processor
from engine.runfile.editor import EditorConfig
from engine.runfile.fields import AttentionKernel
from engine.sample import Json

LOG = logging.getLogger(__name__)
NUM_TIMED = 5
# How much faster than the best so far a kernel must be to replace it: sdpa, tried first, runs everywhere.
KERNEL_GAIN = 1.03


def tune(
    pipeline: Pipeline,
    denoise: UNet,
    config: EditorConfig,
    *,
    size: int,
    most_rows: int,
    prompt: Prompt,
    about: Mapping[str, Json],
) -> tuple[Fitted, dict[str, Json]]:
    """Set layout, attention kernel and rows of a call of a pipeline with a UNet, and compile it if asked.

    Returns the tuned denoiser, and the choices made for it, which go into the provenance of every edit.
    A call has at most `most_rows` rows. `prompt` is an example, `about` names the model. Choices that the configuration
    leaves to measurement are benchmarked once for each kind of machine and cached, so that all workers on one agree.
    """
    layout = lay_out(pipeline, config.model, config.compile)

    def seconds(num_rows: int) -> float:
        return call_seconds(denoise, example_rows(pipeline, size, num_rows, prompt), pipeline.device)

    about = {**about, **benchmark_key(pipeline.device), "layout": layout, "size": size, "dtype": config.model.dtype}
    wanted = config.attention
    if wanted == "fastest":
        known = {**about, "rows": most_rows, "compile": config.compile}
        found = remembered(
            cache_folder(), "attention", known, lambda: _fastest(pipeline, config, lambda: seconds(most_rows))
        )
        wanted = cast(AttentionKernel, found)
    kernel = set_attention(pipeline.unet, wanted, pipeline.device)
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
    return fitted, {
        "attention": kernel,
        "layout": layout,
        "compile": config.compile,
        "unet_rows": fitted.num_rows,
        "deep_cache_interval": config.deep_cache_interval,
    }


def example_rows(
    pipeline: Pipeline, size: int, num_rows: int, prompt: Prompt
) -> tuple[torch.Tensor, torch.Tensor, list[Prompt]]:
    """Return random latents, times and prompts of the shapes that the batcher gives a denoiser for `size` pixels."""
    config, edge = pipeline.unet.config, size // int(pipeline.vae_scale_factor)
    latents = torch.randn(num_rows, config.in_channels, edge, edge, generator=torch.Generator().manual_seed(0))
    times = torch.linspace(0, pipeline.scheduler.config.num_train_timesteps - 1, num_rows, dtype=torch.float64)
    return latents.to(pipeline.device), times.to(pipeline.device), [prompt] * num_rows


def call_seconds(run: Callable[..., torch.Tensor], arguments: tuple[object, ...], device: torch.device) -> float:
    """Return the seconds of the fastest of NUM_TIMED calls, after one call to warm up."""
    found = []
    with torch.inference_mode():
        for _ in range(1 + NUM_TIMED):
            start = perf_counter()
            run(*arguments)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            found.append(perf_counter() - start)
    return min(found[1:])


def benchmark_key(device: torch.device) -> dict[str, Json]:
    """Return the properties of this machine that decide which kernel is fastest: the key of the benchmark cache."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads() if device.type == "cpu" else 0,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "xformers": _version("xformers"),
    }


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


def remembered(folder: Path, question: str, about: Mapping[str, Json], measure: Callable[[], Json]) -> Json:
    """Return the cached result of `measure` for a question and its subject `about`; run and store it on first use.

    Of processes that measure at the same time, the first to finish decides for all. A file names its question and its
    subject, so that it can be read, copied to other machines, or deleted to have it measured again.
    """
    record = {"question": question, "about": dict(about)}
    digest = hashlib.blake2b(json.dumps(record, sort_keys=True).encode(), digest_size=8).hexdigest()
    path = folder / f"{question}-{digest}.json"
    if not path.exists():
        answer = measure()
        _write_first(path, json.dumps({**record, "answer": answer}, indent=2) + "\n")
        LOG.info("%s: measured %s, kept in %s", question, answer, path)
    try:
        found: Json = json.loads(path.read_text())["answer"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} holds no answer ({error}): delete it, and it is measured again") from error
    return found


def _write_first(path: Path, text: str) -> None:
    """Write a file whole, unless another process has by now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False) as file:
        file.write(text)
    try:
        os.link(file.name, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(file.name)
