"""Edits of tiny pictures, and the editor stage that makes them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tiny_models import jpeg

from actors.editor.editor import Editor
from actors.images.codec import decode_rgb
from engine.runfile.editor import EditorConfig
from engine.runfile.fields import ModelConfig
from engine.sample import Edit, Rejection, Sample

CPU = torch.device("cpu")


EDIT = Edit(
    kind="background", before="grass", after="sand", instruction="put it on sand", caption="a red sneaker on sand"
)


def group(key: str, *, num_edits: int = 1, severity: float = 1.0, image: bytes | None = None) -> list[Sample]:
    """Return a source, its placebo and its edits."""
    source = Sample(
        key=key, source_key=key, role="source", image=image or jpeg(seed=len(key) + ord(key[-1])), label=0,
        class_name="sneaker", split="train", caption="a red sneaker on grass",
    )  # fmt: skip
    same = Edit(kind="placebo", before="x", after="x", instruction="keep the picture as it is", caption=source.caption)
    placebo = replace(source, key=f"{key}_placebo", role="placebo", image=b"", edit=same)
    edits = [
        replace(
            source,
            key=f"{key}_cf{index:02d}",
            role="counterfactual",
            image=b"",
            edit=replace(
                EDIT, instruction=f"put it on {index}", caption=f"a red sneaker on {index}", severity=severity
            ),
        )
        for index in range(num_edits)
    ]
    return [source, placebo, *edits]


def editor(folder: Path, **changes: object) -> Editor:
    settings = {
        "model": ModelConfig(name=str(folder)), "batch_size": 4, "num_inference_steps": 2, "guidance_scale": 3.0,
        **changes,
    }  # fmt: skip
    return Editor(EditorConfig(**settings), CPU, name="editor", seed=11, offline=True)


def pixels(sample: Sample | Rejection) -> np.ndarray:
    assert isinstance(sample, Sample), sample
    return np.asarray(decode_rgb(sample.image))
