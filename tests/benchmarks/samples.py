"""Samples as a run of size makes them: sources with their edits, JPEGs of 65 KB, the records that the stages leave."""

from collections.abc import Sequence

import numpy as np

from engine.sample import Edit, Json, Sample, Verdict
from engine.shards.tar import JPEG_MAGIC

EDITS_EACH = 8
IMAGE_BYTES = 65_000
CAPTION, EDITED = "a photo of a yellow dress on grass", "a photo of a yellow dress on snow"


def model(name: str) -> dict[str, Json]:
    """Return what provenance says of a model."""
    return {"digest": "41193c86c4d6ba3d", "name": name, "revision": None}


# The records of one actor are one object in all of its samples, the editor's in the edits of one source: their noise
# starts alike.
CAPTIONER: dict[str, Json] = {"attention": "sdpa", "model": model("microsoft/Florence-2-base")}
PERTURBER: dict[str, Json] = {"attention": "sdpa", "model": model("Qwen/Qwen3-4B"), "temperature": 1.0}
VERIFIER: dict[str, Json] = {"model": model("openai/clip-vit-large-patch14")}
EDITOR: dict[str, Json] = {
    **{"model": model("timbrooks/instruct-pix2pix"), "mask_model": None, "negative_prompt": None},
    **{"pipeline": "StableDiffusionInstructPix2PixPipeline", "method": "instruct", "scheduler": "DDIMScheduler"},
    **{"num_inference_steps": 20, "keep_detail": True, "size": 512, "dtype": "bfloat16", "device": "cuda"},
    **{"attention": "AttnProcessor2_0", "diffusers": "0.42.1", "torch": "2.13.0", "batching": "slots"},
    **{"guidance_scale": 7.5, "image_guidance_scale": 1.5},
}


def make_samples(num_sources: int) -> Sequence[Sample]:
    """Return sources, each with EDITS_EACH edits; their images are noise behind the first bytes of a JPEG."""
    chance = np.random.default_rng(0)
    samples = []
    for number in range(num_sources):
        source = Sample(
            key=f"sources-{number:06d}",
            source_key=f"sources-{number:06d}",
            role="source",
            image=_image(chance),
            label=number % 1000,
            class_name="dress",
            split="train",
            caption=CAPTION,
            attributes={"background": "grass", "colour": "yellow"},
            scores={"text_source": chance.random(), "contrast": chance.random()},
            provenance={"source": f"{number}.jpg", "captioner": CAPTIONER, "verifier": VERIFIER},
        )
        editor: dict[str, Json] = {**EDITOR, "seed": int(chance.integers(2**62))}
        samples += [source, *(_edited(source, place, editor, chance) for place in range(EDITS_EACH))]
    return samples


def _edited(source: Sample, place: int, editor: dict[str, Json], chance: np.random.Generator) -> Sample:
    names = ("image", "text_source", "text_edit", "directional", "consistency", "contrast")
    return Sample(
        key=f"{source.key}_cf{place:02d}",
        source_key=source.key,
        role="counterfactual",
        image=_image(chance),
        label=source.label,
        class_name=source.class_name,
        split=source.split,
        caption=source.caption,
        edit=Edit(kind="background", before="grass", after="snow", instruction="put it on snow", caption=EDITED),
        attributes=source.attributes,
        scores={name: chance.random() for name in names},
        verdict=Verdict(accepted=True),
        provenance={**source.provenance, "perturber": PERTURBER, "editor": editor},
    )


def _image(chance: np.random.Generator) -> bytes:
    return JPEG_MAGIC + chance.bytes(IMAGE_BYTES - len(JPEG_MAGIC))
