"""The patients of the proofs: each one fresh, from eyes that were pretrained on other garments, trained in seconds."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import PreTrainedModel, VisionEncoderDecoderModel

from actors.zoo import MODELS_FOLDER
from actors.zoo.pictures import save_image_processor, to_tensor
from actors.zoo.train_patient import make_resnet, of_train_split
from engine.wardrobe.garments import Garments, load_garments
from engine.wardrobe.scene import Scene, make_scenes, render

NUM_STEPS = 100
NUM_WARMUP_STEPS = 20
BATCH_SIZE = 64
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.02
CPU = torch.device("cpu")

Pictures = NDArray[np.uint8]


def training_scenes(name: str, count: int) -> list[Scene]:
    """Return balanced composites of garments of the train split."""
    return of_train_split(make_scenes(load_garments("sources"), name, count))


def pictures_of(scenes: Iterable[Scene], garments: Garments) -> Pictures:
    """Return the composites' pictures, (num_scenes, 64, 64, 3) uint8."""
    return np.stack([render(scene, garments)[0] for scene in scenes])


def pretrained() -> PreTrainedModel:
    """Return the captioner's eyes under a new head: they know garments, and no class by any background or colour."""
    model = make_resnet()
    captioner = VisionEncoderDecoderModel.from_pretrained(MODELS_FOLDER / "captioner")
    model.base_model.load_state_dict(captioner.encoder.state_dict())
    return model


def train_patient(pictures: Pictures, labels: Sequence[int], seed: int, num_steps: int = NUM_STEPS) -> PreTrainedModel:
    """Return a patient trained on labelled pictures: AdamW, linear warm-up, then linearly down to 0."""
    torch.manual_seed(seed)
    model, targets = pretrained(), torch.tensor(labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / NUM_WARMUP_STEPS) * (1 - step / num_steps)
        rows = torch.randint(len(targets), (BATCH_SIZE,), generator=generator)
        images = to_tensor(pictures[rows.numpy()], CPU)
        if step % 2:
            images = images.flip(-1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(pixel_values=images).logits.float(), targets[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()


def save_patient(model: PreTrainedModel, folder: Path) -> None:
    """Write the patient as a checkpoint that `probe.model` can name."""
    model.save_pretrained(folder)
    save_image_processor(folder, "ViTImageProcessor")
