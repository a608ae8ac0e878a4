"""What each pipeline of diffusers can do here: the one table to which a new family of editors is added.

A test holds its classes against the call signatures of the installed diffusers.
"""

import inspect
from dataclasses import dataclass
from typing import Any

from engine.errors import ModelError
from engine.runfile.editor import EditorConfig


@dataclass(frozen=True, kw_only=True)
class Family:
    """The classes that a checkpoint's model_index.json may name, and by method the class that draws.

    `has_negative`: a negative prompt has an effect. `has_true_guidance`: guidance goes to true_cfg_scale. `is_batched`:
    a call takes several edits, and none depends on the others. `edge`: that of its pictures in pixels, where the
    pipeline does not say it.
    """

    name: str
    saved_as: tuple[str, ...]
    drawn_by: dict[str, str]
    has_negative: bool = True
    has_true_guidance: bool = False
    is_batched: bool = True
    edge: int | None = None


def _by_caption(prefix: str) -> dict[str, Any]:
    """Return the classes of a family, which diffusers names PrefixPipeline, PrefixImg2ImgPipeline and so on."""
    drawn_by = {"img2img": f"{prefix}Img2ImgPipeline", "inpaint": f"{prefix}InpaintPipeline"}
    return {"saved_as": (f"{prefix}Pipeline", *drawn_by.values()), "drawn_by": drawn_by}


def _alone(method: str, class_name: str) -> dict[str, Any]:
    """Return the one class of a family."""
    return {"saved_as": (class_name,), "drawn_by": {method: class_name}}


PIX2PIX = ("StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLInstructPix2PixPipeline")
FAMILIES = (
    Family(name="InstructPix2Pix", **_alone("instruct", PIX2PIX[0])),
    Family(name="InstructPix2Pix", **_alone("instruct", PIX2PIX[1])),
    # Here and in the rest of FLUX guidance is an input of the network, or fixed: there is no row for a negative prompt.
    Family(name="FLUX.1 Kontext", has_negative=False, **_alone("instruct", "FluxKontextPipeline")),
    # These read a list of pictures as several references for one edit.
    Family(name="FLUX.2", has_negative=False, is_batched=False, **_alone("instruct", "Flux2Pipeline")),
    Family(name="FLUX.2 klein", has_negative=False, is_batched=False, **_alone("instruct", "Flux2KleinPipeline")),
    *(
        Family(name="Qwen-Image-Edit", has_true_guidance=True, is_batched=False, **_alone("instruct", class_name))
        for class_name in ("QwenImageEditPipeline", "QwenImageEditPlusPipeline")
    ),
    Family(name="Stable Diffusion 1 and 2", **_by_caption("StableDiffusion")),
    Family(name="Stable Diffusion XL", **_by_caption("StableDiffusionXL")),
    Family(name="Stable Diffusion 3", **_by_caption("StableDiffusion3")),
    Family(name="Stable Diffusion 1 and 2", **_by_caption("StableDiffusionPAG")),
    Family(name="Stable Diffusion XL", **_by_caption("StableDiffusionXLPAG")),
    Family(
        name="Stable Diffusion 3",
        saved_as=("StableDiffusion3PAGPipeline", "StableDiffusion3PAGImg2ImgPipeline"),
        drawn_by={"img2img": "StableDiffusion3PAGImg2ImgPipeline"},
    ),
    Family(name="FLUX.1", has_negative=False, **_by_caption("Flux")),
    # These pad texts to the longest of a call, which moves the last bits of the others.
    Family(name="Qwen-Image", has_true_guidance=True, is_batched=False, **_by_caption("QwenImage")),
    Family(name="Z-Image", edge=1024, is_batched=False, **_by_caption("ZImage")),
    # Its inpainting in diffusers 0.42.1 looks for a setting that its transformer has not.
    Family(
        name="Chroma",
        saved_as=("ChromaPipeline", "ChromaImg2ImgPipeline", "ChromaInpaintPipeline"),
        drawn_by={"img2img": "ChromaImg2ImgPipeline"},
    ),
    Family(name="FLUX.1 Fill", has_negative=False, **_alone("inpaint", "FluxFillPipeline")),
    Family(
        name="Latent Consistency Model",
        saved_as=("LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline"),
        drawn_by={"img2img": "LatentConsistencyModelImg2ImgPipeline"},
        has_negative=False,
    ),
)


def family_of(config: EditorConfig, class_name: str) -> Family:
    """Return the family of a checkpoint, by its class in model_index.json.

    Raises ModelError, which names what works, where that cannot do the editor's method.
    """
    name, method = config.model.name, config.method
    family = next((family for family in FAMILIES if class_name in family.saved_as), None)
    names = dict.fromkeys(each.name for each in FAMILIES if method in each.drawn_by)
    others = f"for {method} a model of {', '.join(names)}"
    if family is None:
        raise ModelError(f"model {name!r} is a {class_name}, {_why_no_editor(class_name)}: name {others}")
    if method not in family.drawn_by:
        trait = "follows instructions" if "instruct" in family.drawn_by else f"does no {method}"
        trait = "follows no instructions" if method == "instruct" else trait
        methods = " or ".join(family.drawn_by)
        raise ModelError(f"model {name!r} is a {class_name}, which {trait}: use method {methods}, or {others}")
    if config.negative_prompt is not None and not family.has_negative:
        raise ModelError(f"model {name!r} ({family.name}) takes no negative prompt: leave negative_prompt out")
    return family


def native_edge(drawing: str) -> int | None:
    """Return the edge in pixels of a drawing class's pictures, where the table has it and not the pipeline."""
    return next((family.edge for family in FAMILIES if drawing in family.drawn_by.values()), None)


def _why_no_editor(class_name: str) -> str:
    """Return what keeps a class of diffusers from editing, by its call signature."""
    import diffusers

    kind = getattr(diffusers, class_name, None)
    if kind is None:
        return f"which diffusers {diffusers.__version__} does not have"
    if packages := set(getattr(kind, "_backends", ())) - {"torch", "transformers"}:
        return f"which needs {' and '.join(sorted(packages))} and is no editor here"
    takes = set(inspect.signature(kind.__call__).parameters)
    if takes & {"num_frames", "video", "num_videos_per_prompt"}:
        return "which makes videos"
    if any("control" in name for name in takes):
        return "which wants a control picture beside the source"
    if "prompt" not in takes:
        return "which follows no text"
    if not takes & {"image", "images"}:
        return "which draws from a text alone"
    return "which reads picture and text in a way that is not known here"
