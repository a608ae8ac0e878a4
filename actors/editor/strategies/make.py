"""From an editor's configuration and its pipeline to the strategy: the one place that knows all of them."""

from collections.abc import Mapping
from typing import Any

from actors.editor.strategies.flux import KLEIN, KONTEXT, Flux
from actors.editor.strategies.img2img import Img2Img
from actors.editor.strategies.instruct import InstructPix2Pix
from actors.editor.strategies.strategy import Strategy
from engine.errors import ModelError
from engine.runfile.editor import EditorConfig

PIX2PIX = ("StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLInstructPix2PixPipeline")
FOLLOW_INSTRUCTIONS = (*PIX2PIX, KONTEXT, KLEIN)


def make_strategy(config: EditorConfig, index: Mapping[str, Any]) -> Strategy:
    """Return the strategy of a method and a pipeline, given its model_index.json; ModelError if they do not agree."""
    name, class_name = config.model.name, index["_class_name"]
    if config.method != "instruct" and class_name in FOLLOW_INSTRUCTIONS:
        raise ModelError(f"model {name!r} is a {class_name}, which follows instructions: use method instruct")
    if config.method != "instruct":
        return Img2Img(
            guidance_scale=config.guidance_scale,
            negative_prompt=config.negative_prompt,
            strength=config.strength,
            num_inference_steps=config.num_inference_steps,
            inpaints=config.method == "inpaint",
        )
    if class_name in PIX2PIX:
        return InstructPix2Pix(
            loader=class_name,
            guidance_scale=config.guidance_scale,
            image_guidance_scale=config.image_guidance_scale,
            negative_prompt=config.negative_prompt,
            scales_source=bool(index.get("is_cosxl_edit")),
        )
    if class_name not in FOLLOW_INSTRUCTIONS:
        raise ModelError(
            f"model {name!r} is a {class_name}, which follows no instructions: use method img2img or inpaint, or a "
            f"model of one of {sorted(FOLLOW_INSTRUCTIONS)}"
        )
    if config.negative_prompt is not None:
        raise ModelError(f"model {name!r} takes no negative prompt: leave negative_prompt out")
    return Flux(loader=class_name, guidance_scale=config.guidance_scale)
