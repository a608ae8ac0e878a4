"""Diffusion pipelines: loaded with the strategy that draws with them, and their sizes."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from actors.editor.strategies.families import native_edge
from actors.editor.strategies.make import make_strategy
from actors.editor.strategies.strategy import Strategy
from actors.models.device import weights_dtype
from actors.models.files import ModelFiles
from actors.models.loading import load_processor, model_errors, quiet
from actors.models.untyped import Model, Pipeline, Processor
from engine.errors import ModelError
from engine.runfile.editor import EditorConfig


def load_pipeline(config: EditorConfig, files: ModelFiles, device: torch.device) -> tuple[Pipeline, Strategy]:
    """Return a pipeline on its device and its strategy; raises ModelError when the model cannot do the method."""
    import diffusers
    import transformers

    quiet(transformers, diffusers)
    check_editor(config, files)
    index = _index(files)
    strategy, processors = make_strategy(config, index), _processors(files, index)
    with model_errors(files.name, f"a pipeline for {config.method}"):
        pipeline = getattr(diffusers, strategy.loader).from_pretrained(
            files.folder,
            dtype=weights_dtype(files.config, device),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            # The safety checker turns pictures black, which reads as an edit.
            **({"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in index else {}),
            **dict.fromkeys(processors),
        )
    pipeline.register_modules(**processors)
    if config.scheduler is not None:
        pipeline.scheduler = _scheduler(pipeline, config.scheduler, files.name)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device), strategy


def check_editor(config: EditorConfig, files: ModelFiles) -> None:
    """Raise ModelError where a model cannot do an editor's method; its small files tell, no weights are read."""
    index = _index(files)
    make_strategy(config, index)
    unet = Path(files.folder) / "unet" / "config.json"
    if config.method == "img2img" and unet.is_file():
        channels = [json.loads(unet.read_text(encoding="utf-8")).get(f"{end}_channels") for end in ("in", "out")]
        if channels[0] != channels[1]:
            raise ModelError(
                f"model {files.name!r} has a UNet of {channels[0]} input channels and {channels[1]} output channels, "
                "which img2img cannot use: use method inpaint, or a model that was not trained for inpainting"
            )


def _processors(files: ModelFiles, index: Mapping[str, Any]) -> dict[str, Processor]:
    """Return the processors of a pipeline that would need torchvision, loaded without it.

    FLUX.2 has one in place of its tokenizer, for texts alone: its tokenizer, loaded as the processor would, will do.
    """
    from transformers import PreTrainedTokenizerFast

    found: dict[str, Processor] = {}
    for part in ("tokenizer", "processor"):
        folder = Path(files.folder) / part
        if not str((index.get(part) or ("",))[-1]).endswith("Processor"):
            continue
        if part == "processor":
            found[part] = load_processor(replace(files, folder=str(folder)))
        else:
            with model_errors(files.name, "a tokenizer"):
                found[part] = PreTrainedTokenizerFast.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
    return found


def _scheduler(pipeline: Pipeline, wanted: str, model: str) -> Model:
    """Return the wanted scheduler on the noise schedule of the pipeline's own; raises ModelError where none is."""
    own = pipeline.scheduler
    known = {kind.__name__: kind for kind in (type(own), *own.compatibles)}
    if wanted not in known:
        raise ModelError(f"model {model!r} knows no scheduler {wanted!r}: leave it out, or name one of {sorted(known)}")
    with model_errors(model, f"a pipeline with {wanted}"):
        return known[wanted].from_config(own.config)


def _index(files: ModelFiles) -> dict[str, Any]:
    """Return a pipeline's model_index.json, whose _class_name is a class of diffusers. Raises ModelError."""
    path = Path(files.folder) / "model_index.json"
    if not path.is_file():
        raise ModelError(f"model {files.name!r} has no model_index.json: an editor needs a saved diffusers pipeline")
    index: dict[str, Any] = json.loads(path.read_text())
    class_name = index.get("_class_name")
    if not isinstance(class_name, str):
        raise ModelError(
            f"model {files.name!r}: _class_name in its model_index.json is {class_name!r}, a pipeline with code of "
            "its own, which is never run: name a model that is a pipeline of diffusers"
        )
    return index


def denoiser(pipeline: Pipeline) -> Model:
    """Return the UNet or the diffusion transformer of a pipeline."""
    return pipeline.unet if getattr(pipeline, "unet", None) is not None else pipeline.transformer


def native_size(pipeline: Pipeline) -> int:
    """Return the edge in pixels that a pipeline was made for; raises ModelError where nothing says it."""
    config = denoiser(pipeline).config
    edge = getattr(config, "sample_size", None) or getattr(pipeline, "default_sample_size", None)
    if edge is not None:
        return int(edge if isinstance(edge, int) else edge[0]) * int(pipeline.vae_scale_factor)
    if (known := native_edge(type(pipeline).__name__)) is None:
        raise ModelError(f"a {type(pipeline).__name__} does not say how large its pictures are: give the editor a size")
    return known


def size_multiple(pipeline: Pipeline) -> int:
    """Return the number of pixels that divides the edge: one latent pixel, or a patch of two for a transformer."""
    is_unet = getattr(pipeline, "unet", None) is not None
    return int(pipeline.vae_scale_factor) * (1 if is_unet else 2)
