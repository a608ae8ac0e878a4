"""Diffusion pipelines: which class loads for a method, and the one call each takes for a batch of edits."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, assert_never

import torch

from actors.models.device import weights_dtype
from actors.models.loading import ModelFiles, model_errors, quiet
from actors.models.untyped import Model, Pipeline
from engine.errors import ModelError
from engine.runfile.editor import EditorConfig
from engine.sample import PLACEBO_INSTRUCTION

PipelineKind = Literal["pix2pix", "kontext", "klein", "img2img", "inpaint"]

INSTRUCT_KINDS: dict[str, PipelineKind] = {
    "StableDiffusionInstructPix2PixPipeline": "pix2pix",
    "StableDiffusionXLInstructPix2PixPipeline": "pix2pix",
    "FluxKontextPipeline": "kontext",
    "Flux2KleinPipeline": "klein",
}


@dataclass(frozen=True, kw_only=True)
class EditBatch:
    """Hold one batch: images (num_rows, 3, size, size) in [0, 1], masks (num_rows, 1, size, size) in {0, 1}."""

    images: torch.Tensor
    prompts: list[str]
    generators: list[torch.Generator]
    severity: float
    masks: torch.Tensor | None = None


def load_pipeline(config: EditorConfig, files: ModelFiles, device: torch.device) -> tuple[Pipeline, PipelineKind]:
    """Return a pipeline on its device and its kind; raises ModelError when the model cannot do the method."""
    import diffusers
    import transformers

    quiet(transformers, diffusers)
    index = _index(files)
    class_name = index["_class_name"]
    kind = _pipeline_kind(config, class_name)
    match kind:
        case "pix2pix" | "kontext" | "klein":
            loader = getattr(diffusers, class_name)
        case "img2img":
            loader = diffusers.AutoPipelineForImage2Image
        case "inpaint":
            loader = diffusers.AutoPipelineForInpainting
        case _:
            assert_never(kind)
    with model_errors(files.name, f"a pipeline for {config.method}"):
        pipeline = loader.from_pretrained(
            files.folder,
            dtype=weights_dtype(files.config, device),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            **_without_safety_checker(index),
        )
    if config.scheduler is not None:
        pipeline.scheduler = _scheduler(pipeline, config.scheduler, files.name)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device), kind


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


def _pipeline_kind(config: EditorConfig, class_name: str) -> PipelineKind:
    match config.method:
        case "instruct":
            if class_name not in INSTRUCT_KINDS:
                raise ModelError(
                    f"model {config.model.name!r} is a {class_name}, which follows no instructions: use method img2img "
                    f"or inpaint, or a model of one of {sorted(INSTRUCT_KINDS)}"
                )
            kind = INSTRUCT_KINDS[class_name]
            if config.negative_prompt is not None and kind != "pix2pix":
                raise ModelError(f"model {config.model.name!r} takes no negative prompt: leave negative_prompt out")
            return kind
        case "img2img" | "inpaint":
            if class_name in INSTRUCT_KINDS:
                raise ModelError(
                    f"model {config.model.name!r} is a {class_name}, which follows instructions: use method instruct"
                )
            return config.method
        case _:
            assert_never(config.method)


def _without_safety_checker(index: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that leave the safety checker out: it turns pictures black, which reads as an edit."""
    return {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in index else {}


def denoiser(pipeline: Pipeline) -> Model:
    """Return the UNet or the diffusion transformer of a pipeline."""
    return pipeline.unet if getattr(pipeline, "unet", None) is not None else pipeline.transformer


def native_size(pipeline: Pipeline) -> int:
    """Return the edge in pixels that a pipeline was made for."""
    config = denoiser(pipeline).config
    edge = getattr(config, "sample_size", None) or pipeline.default_sample_size
    return int(edge if isinstance(edge, int) else edge[0]) * int(pipeline.vae_scale_factor)


def size_multiple(pipeline: Pipeline) -> int:
    """Return what the edge must be a multiple of: latent pixels, in patches of two for a transformer."""
    is_unet = getattr(pipeline, "unet", None) is not None
    return int(pipeline.vae_scale_factor) * (1 if is_unet else 2)


def effective_settings(config: EditorConfig, kind: PipelineKind, severity: float) -> dict[str, float]:
    """Return guidance and strength at one severity.

    An edit that starts from the source's noised latents (img2img, inpaint) is made milder by less noise: strength times
    severity, at least one step. An edit that follows an instruction has no such knob; its text guidance is scaled
    between 1 (none) and the configured value. Where that is 1, run_pipeline moves the instruction itself.
    """
    match kind:
        case "img2img" | "inpaint":
            # Pipelines run int(steps * strength) steps: a hair above 1 / steps, or rounding makes that none.
            strength = min(1.0, max(config.strength * severity, 1.001 / config.num_inference_steps))
            return {"guidance_scale": config.guidance_scale, "strength": strength}
        case "pix2pix":
            guidance = 1 + (config.guidance_scale - 1) * severity
            return {"guidance_scale": guidance, "image_guidance_scale": config.image_guidance_scale}
        case "kontext" | "klein":
            return {"guidance_scale": 1 + (config.guidance_scale - 1) * severity}
        case _:
            assert_never(kind)


def can_be_milder(pipeline: Pipeline, kind: PipelineKind, config: EditorConfig) -> bool:
    """Return whether a severity below 1 changes anything: without guidance only one text encoder's embedding can."""
    if kind in ("img2img", "inpaint") or config.guidance_scale > 1:
        return True
    return kind == "pix2pix" and getattr(pipeline, "text_encoder_2", None) is None


def run_pipeline(pipeline: Pipeline, kind: PipelineKind, config: EditorConfig, batch: EditBatch) -> torch.Tensor:
    """Return the edited images, (num_rows, 3, size, size), float32 on the CPU, in [0, 1] where finite."""
    settings: dict[str, Any] = {
        **effective_settings(config, kind, batch.severity),
        "num_inference_steps": config.num_inference_steps,
        "output_type": "pt",
    }
    size = batch.images.shape[-1]
    match kind:
        case "pix2pix" if batch.severity < 1 and config.guidance_scale == 1:
            return _call(pipeline, batch, settings | _on_the_way(pipeline, batch), image=batch.images)
        case "pix2pix" | "img2img":
            return _call(pipeline, batch, settings | _negative(config, batch.prompts), image=batch.images)
        case "inpaint":
            shape = {"height": size, "width": size}
            return _call(
                pipeline,
                batch,
                settings | shape | _negative(config, batch.prompts),
                image=batch.images,
                mask_image=batch.masks,
            )
        case "kontext":
            shape = {"height": size, "width": size, "max_area": size * size, "_auto_resize": False}
            return _call(pipeline, batch, settings | shape, image=batch.images)
        case "klein":
            return _one_by_one(pipeline, batch, settings | {"height": size, "width": size})
        case _:
            assert_never(kind)


def _on_the_way(pipeline: Pipeline, batch: EditBatch) -> dict[str, Any]:
    """Return text embeddings `severity` of the way from the placebo's instruction to the batch's own."""
    stay, go = (_embedded(pipeline, texts) for texts in ([PLACEBO_INSTRUCTION], batch.prompts))
    return {"prompt": None, "prompt_embeds": torch.lerp(stay.expand_as(go), go, batch.severity)}


def _embedded(pipeline: Pipeline, texts: list[str]) -> torch.Tensor:
    length = pipeline.tokenizer.model_max_length
    tokens = pipeline.tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return torch.as_tensor(pipeline.text_encoder(tokens.input_ids.to(pipeline.device))[0])


def _negative(config: EditorConfig, prompts: Sequence[str]) -> dict[str, Any]:
    return {} if config.negative_prompt is None else {"negative_prompt": [config.negative_prompt] * len(prompts)}


def _call(
    pipeline: Pipeline, batch: EditBatch, settings: dict[str, Any], **images: torch.Tensor | None
) -> torch.Tensor:
    # Masks and images are given as tensors: through PIL a batch costs 9-12 ms an image at 512 px.
    output = pipeline(**{"prompt": batch.prompts, "generator": batch.generators, **images, **settings})
    return torch.as_tensor(output.images).float().cpu()


def _one_by_one(pipeline: Pipeline, batch: EditBatch, settings: dict[str, Any]) -> torch.Tensor:
    """Run rows alone: FLUX.2 reads a list of images as several references for one edit."""
    from PIL import Image

    rows = []
    for image, prompt, generator in zip(batch.images, batch.prompts, batch.generators, strict=True):
        pixels = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        output = pipeline(image=Image.fromarray(pixels), prompt=prompt, generator=generator, **settings)
        rows.append(torch.as_tensor(output.images).float().cpu())
    return torch.cat(rows)
