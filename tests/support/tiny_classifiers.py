"""Random-weight classifiers of real classes, saved with their image processor as a user would."""

from pathlib import Path

import torch
from transformers import (
    ConvNextImageProcessorPil,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)


def save_checkpoint(folder: Path, kind: str, names: list[str], seed: int = 0) -> Path:
    """Save a tiny classifier with its image processor, as a user would."""
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    torch.manual_seed(seed)
    scaling = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    if kind == "resnet":
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **labels)
        ResNetForImageClassification(config).save_pretrained(folder)
        ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=1.0, **scaling).save_pretrained(folder)
    else:
        config = ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=32,
            patch_size=8,
            **labels,
        )
        ViTForImageClassification(config).save_pretrained(folder)
        ViTImageProcessorPil(size={"height": 32, "width": 32}, **scaling).save_pretrained(folder)
    return folder
