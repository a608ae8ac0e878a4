"""Jobs of an editor."""

import numpy as np
import torch

from actors.editor.pipelines.jobs import EditJob
from actors.images.frame import Frame
from engine.sample import Edit, Sample

SIZE = 32


def frame(seed: int) -> Frame:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    return Frame(pixels=pixels, top=0, left=0, height=SIZE, width=SIZE)


def job(seed: int, number: int, severity: float, *, masked: bool) -> EditJob:
    text = f"put it on {number}"
    edit = Edit(
        kind="background", before="grass", after=str(number), instruction=text, caption=f"a shoe on {number}",
        severity=severity,
    )  # fmt: skip
    sample = Sample(
        key=f"s{seed}_cf{number:02d}", source_key=f"s{seed}", role="counterfactual", image=b"", label=0,
        class_name="shoe", split="train", caption="a shoe on grass", edit=edit,
    )  # fmt: skip
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, :, SIZE // 2 :] = 1
    return EditJob(
        sample=sample, edit=edit, frame=frame(seed), caption=sample.caption, seed=seed, mask=mask if masked else None
    )
