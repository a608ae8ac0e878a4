"""From an editor's configuration and its pipeline to the strategy: the one place that knows all of them."""

from collections.abc import Mapping
from typing import Any

from actors.editor.strategies.families import PIX2PIX, family_of
from actors.editor.strategies.img2img import Img2Img
from actors.editor.strategies.instruct import InstructPix2Pix
from actors.editor.strategies.reference import Reference
from actors.editor.strategies.strategy import Strategy
from engine.runfile.editor import EditorConfig


def make_strategy(config: EditorConfig, index: Mapping[str, Any]) -> Strategy:
    """Return the strategy of a method and a pipeline, given its model_index.json; ModelError if they do not agree."""
    family = family_of(config, index["_class_name"])
    loader = family.drawn_by[config.method]
    if config.method != "instruct":
        return Img2Img(
            loader=loader,
            is_batched=family.is_batched,
            guidance_scale=config.guidance_scale,
            negative_prompt=config.negative_prompt,
            has_true_guidance=family.has_true_guidance,
            strength=config.strength,
            num_inference_steps=config.num_inference_steps,
            inpaints=config.method == "inpaint",
        )
    if loader in PIX2PIX:
        return InstructPix2Pix(
            loader=loader,
            guidance_scale=config.guidance_scale,
            image_guidance_scale=config.image_guidance_scale,
            negative_prompt=config.negative_prompt,
            scales_source=bool(index.get("is_cosxl_edit")),
        )
    return Reference(
        loader=loader,
        is_batched=family.is_batched,
        guidance_scale=config.guidance_scale,
        negative_prompt=config.negative_prompt,
        has_true_guidance=family.has_true_guidance,
    )
