"""Train the captioner: a vision encoder-decoder that says what is in a composite."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    GenerationConfig,
    GPT2Config,
    PreTrainedTokenizerFast,
    SwinConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)

from actors.zoo.language import text_tokenizer
from actors.zoo.pictures import garments_of, rendered, save_image_processor, to_tensor
from actors.zoo.train_verifier import verifier_scenes
from actors.zoo.training import Recipe, Workshop, averaged, train
from engine.wardrobe.scene import Scene, caption

RECIPE = Recipe(name="captioner", num_steps=3400, learning_rate=1e-3, weight_decay=0.02)
BATCH_SIZE = 64
MAX_LENGTH = 24
# The class is one word in ten and the hardest to see.
CLASS_WEIGHT = 8.0


def make_captioner(tokenizer: PreTrainedTokenizerFast) -> VisionEncoderDecoderModel:
    """Return the untrained encoder-decoder."""
    # Windows see shapes: a plain vision transformer of this size named one garment in five after 2,400 steps.
    encoder = SwinConfig(
        image_size=64,
        patch_size=4,
        embed_dim=48,
        depths=[2, 2, 2],
        num_heads=[3, 6, 12],
        window_size=4,
        mlp_ratio=3.0,
        drop_path_rate=0.0,
    )
    decoder = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=64,
        n_embd=128,
        n_layer=2,
        n_head=4,
        is_decoder=True,
        add_cross_attention=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id = tokenizer.bos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    config.eos_token_id = tokenizer.eos_token_id
    return VisionEncoderDecoderModel(config=config)


def train_captioner(workshop: Workshop, num_steps: int | None = None) -> None:
    """Train on the verifier's pictures and their true captions."""
    garments = garments_of("zoo", workshop.fashion_mnist)
    scenes = verifier_scenes(garments)
    pictures = rendered(workshop.folder / "verifier.npy", scenes, garments)
    tokenizer = text_tokenizer(())
    model = make_captioner(tokenizer).to(workshop.device)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((RECIPE.seed, step))
        rows = np.sort(rng.integers(len(scenes), size=BATCH_SIZE))
        images = to_tensor(pictures[rows], workshop.device)
        labels, weights = _targets(tokenizer, [scenes[row] for row in rows])
        labels, weights = labels.to(workshop.device), weights.to(workshop.device)
        if step % 2:
            images = images.flip(-1)
        logits = model(pixel_values=images, labels=labels).logits.float()
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        of_class = (losses * (weights == CLASS_WEIGHT)).sum() / (weights == CLASS_WEIGHT).sum()
        return (losses * weights).sum() / weights.sum(), {"class_loss": of_class.item()}

    train(replace(RECIPE, num_steps=num_steps or RECIPE.num_steps), model, loss, workshop)


def save_captioner(workshop: Workshop, folder: Path) -> int:
    """Write the model folder from the last checkpoint; return the step it is from."""
    tokenizer = text_tokenizer(())
    model = make_captioner(tokenizer)
    step = averaged(RECIPE, model, workshop)
    model.generation_config = GenerationConfig(
        max_new_tokens=MAX_LENGTH,
        decoder_start_token_id=tokenizer.bos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_image_processor(folder, "ViTImageProcessor")
    return step


def _targets(tokenizer: PreTrainedTokenizerFast, scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Return the tokens of the captions, (n, length), and the weight of each: 0 for padding."""
    texts = [caption(scene) + str(tokenizer.eos_token) for scene in scenes]
    tokens = tokenizer(texts, padding=True, return_tensors="pt", return_offsets_mapping=True)
    starts = torch.tensor([text.index(scene.class_name) for text, scene in zip(texts, scenes, strict=True)])
    ends = starts + torch.tensor([len(scene.class_name) for scene in scenes])
    offsets = tokens.offset_mapping
    names_class = (offsets[..., 1] > starts[:, None]) & (offsets[..., 0] < ends[:, None])
    weights = torch.where(names_class, CLASS_WEIGHT, 1.0) * tokens.attention_mask
    return tokens.input_ids, weights
