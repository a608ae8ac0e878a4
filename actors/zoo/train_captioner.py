"""Train the captioner: a vision encoder-decoder that says what is in a composite."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    GPT2Config,
    PreTrainedTokenizerFast,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

from actors.zoo.language import text_tokenizer
from actors.zoo.pictures import garments_of, rendered, save_image_processor, to_tensor
from actors.zoo.train_verifier import verifier_scenes
from actors.zoo.training import Recipe, Workshop, averaged, train
from engine.wardrobe.scene import caption

RECIPE = Recipe(name="captioner", num_steps=2400, learning_rate=1e-3, weight_decay=0.02)
BATCH_SIZE = 64
MAX_LENGTH = 24


def make_captioner(tokenizer: PreTrainedTokenizerFast) -> VisionEncoderDecoderModel:
    """Return the untrained encoder-decoder."""
    encoder = ViTConfig(
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=64,
        patch_size=8,
        hidden_dropout_prob=0.0,
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
        texts = [caption(scenes[row]) + tokenizer.eos_token for row in rows]
        labels = tokenizer(texts, padding=True, return_tensors="pt").input_ids.to(workshop.device)
        labels = labels.masked_fill(labels == tokenizer.pad_token_id, -100)
        if step % 2:
            images = images.flip(-1)
        return model(pixel_values=images, labels=labels).loss, {}

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
