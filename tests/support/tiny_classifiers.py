"""Random-weight classifiers of real classes, saved with their image processor as a user would."""

from pathlib import Path
from typing import Any

import torch
import transformers
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


def save_architecture(folder: Path, name: str, num_labels: int) -> Path:
    """Save a tiny classifier of ARCHITECTURES; many of its hidden layers have as many rows as a head of 16 has."""
    kind, settings = ARCHITECTURES[name]
    model_class = getattr(transformers, kind if "ForImage" in kind else f"{kind}ForImageClassification")
    names = {index: f"class {index}" for index in range(num_labels)}
    torch.manual_seed(0)
    config = model_class.config_class(**settings, id2label=names, label2id={name: key for key, name in names.items()})
    model = model_class(config)
    with torch.no_grad():  # fresh ones are small, or all zero
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


_VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
_FEED_FORWARD = {"intermediate_size": 16}
_SWIN = {"image_size": 64, "patch_size": 8, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
_STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}
_FOUR_STAGES = {"hidden_sizes": [8, 8, 8, 16], "depths": [1] * 4}
_PYRAMID = {"image_size": 64, "num_attention_heads": [1, 2, 2, 2], **_FOUR_STAGES}
_LEVIT = {
    **{"image_size": 64, "hidden_sizes": [16, 24, 32], "depths": [1] * 3},
    **{"num_attention_heads": [2] * 3, "key_dim": [8] * 3},
}
_EFFICIENT = {
    **{"image_size": 64, "in_channels": [32, 16], "out_channels": [16, 320], "kernel_sizes": [3, 3], "strides": [1, 2]},
    **{"num_block_repeats": [1, 1], "expand_ratios": [1, 2], "hidden_dim": 1280, "width_coefficient": 1.0},
    **{"depth_coefficient": 1.0},
}
# A class of transformers, and what makes it tiny.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "beit": ("Beit", {**_VIT, **_FEED_FORWARD, "use_relative_position_bias": True}),
    "clip": ("CLIP", {"vision_config": {**_VIT, **_FEED_FORWARD}}),
    "convnext": ("ConvNext", {"num_stages": 2, **_STAGES}),
    "convnextv2": ("ConvNextV2", {"num_stages": 2, **_STAGES}),
    "deit": ("DeiT", {**_VIT, **_FEED_FORWARD}),
    "deit_teacher": ("DeiTForImageClassificationWithTeacher", {**_VIT, **_FEED_FORWARD}),
    "dinov2": ("Dinov2", {**_VIT, "mlp_ratio": 1}),
    "efficientnet": ("EfficientNet", _EFFICIENT),
    "levit": ("Levit", _LEVIT),
    "levit_teacher": ("LevitForImageClassificationWithTeacher", _LEVIT),
    "mobilenet_v2": ("MobileNetV2", {"depth_multiplier": 0.25}),
    "mobilevit": ("MobileViT", {"image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8] * 6 + [16]}),
    "perceiver": (
        "PerceiverForImageClassificationConvProcessing",
        {
            "num_self_attention_heads": 2,
            "num_cross_attention_heads": 2,
            "num_latents": 8,
            "d_latents": 16,
            "d_model": 16,
            "num_self_attends_per_block": 1,
            "image_size": 64,
        },
    ),
    "poolformer": ("PoolFormer", _FOUR_STAGES),
    "pvt_v2": ("PvtV2", _PYRAMID),
    "regnet": ("RegNet", {"embedding_size": 16, "groups_width": 4, **_STAGES}),
    "resnet": ("ResNet", {"embedding_size": 16, "layer_type": "basic", **_STAGES}),
    "segformer": ("Segformer", _PYRAMID),
    "siglip": ("Siglip", {"vision_config": {**_VIT, **_FEED_FORWARD}}),
    "swiftformer": ("SwiftFormer", {"embed_dims": [8, 8, 8, 16], "depths": [1] * 4}),
    "swin": ("Swin", _SWIN),
    "swinv2": ("Swinv2", _SWIN),
    "vit": ("ViT", {**_VIT, **_FEED_FORWARD}),
}
