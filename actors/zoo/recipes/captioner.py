"""Train the captioner: a decoder that says in words what the backbone sees in a composite."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    VisionEncoderDecoderModel,
)
from transformers.modeling_outputs import BaseModelOutput

from actors.zoo.recipes.backbone import backbone_features, backbone_scenes, load_backbone, make_backbone
from actors.zoo.recipes.training.language import in_spans, special_tokens, text_tokenizer
from actors.zoo.recipes.training.loop import Loss, Recipe, TrainContext, drawn_rows, save_half
from actors.zoo.recipes.training.pictures import garments_of, save_image_processor
from engine.wardrobe.scene import Scene, caption

RECIPE = Recipe(name="captioner", num_steps=2500, learning_rate=1e-3, weight_decay=0.02)
BATCH_SIZE = 64
MAX_LENGTH = 24
# The class is one word in ten and the hardest to see.
CLASS_WEIGHT = 8.0


def make_captioner(
    tokenizer: PreTrainedTokenizerFast, encoder: PreTrainedModel, size: int = 1
) -> VisionEncoderDecoderModel:
    """Return the encoder with an untrained decoder."""
    decoder = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=64,
        n_embd=128 * size,
        n_layer=2,
        n_head=4,
        is_decoder=True,
        add_cross_attention=True,
        **special_tokens(tokenizer),
    )
    model = VisionEncoderDecoderModel(encoder=encoder, decoder=GPT2LMHeadModel(decoder))
    model.config.decoder_start_token_id = tokenizer.bos_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.eos_token_id = tokenizer.eos_token_id
    return model


def start_captioner(context: TrainContext) -> tuple[nn.Module, Loss]:
    """Start the decoder on the backbone's pictures and their true captions; the backbone stays as it is."""
    scenes = backbone_scenes(garments_of("zoo", context.fashion_mnist))
    features = backbone_features(context)
    tokenizer = text_tokenizer(())
    model = make_captioner(tokenizer, load_backbone(context), context.size).to(context.device)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = drawn_rows(RECIPE.seed, step, len(scenes), BATCH_SIZE)
        seen = torch.from_numpy(features[rows]).float().to(context.device)
        labels, weights = _targets(tokenizer, [scenes[row] for row in rows])
        labels, weights = labels.to(context.device), weights.to(context.device)
        logits = model(encoder_outputs=BaseModelOutput(last_hidden_state=seen), labels=labels).logits.float()
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        of_class = (losses * (weights == CLASS_WEIGHT)).sum() / (weights == CLASS_WEIGHT).sum()
        return (losses * weights).sum() / weights.sum(), {"class_loss": of_class.item()}

    return model, loss


def save_captioner(context: TrainContext, folder: Path) -> int:
    """Write the model folder from the last checkpoint; return the step it is from."""
    tokenizer = text_tokenizer(())
    model = make_captioner(tokenizer, make_backbone(context.size).backbone, context.size)
    model.generation_config = GenerationConfig(
        max_new_tokens=MAX_LENGTH,
        decoder_start_token_id=tokenizer.bos_token_id,
        **special_tokens(tokenizer),
    )
    save_image_processor(folder, "ViTImageProcessor")
    return save_half(RECIPE, model, context, folder, tokenizer=tokenizer)


def _targets(tokenizer: PreTrainedTokenizerFast, scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Return the tokens of the captions, (n, length), and the weight of each: 0 for padding."""
    texts = [caption(scene) + str(tokenizer.eos_token) for scene in scenes]
    tokens = tokenizer(texts, padding=True, return_tensors="pt", return_offsets_mapping=True)
    starts = [text.index(scene.class_name) for text, scene in zip(texts, scenes, strict=True)]
    ends = [start + len(scene.class_name) for start, scene in zip(starts, scenes, strict=True)]
    names_class = in_spans(tokens.offset_mapping, starts, ends)
    weights = torch.where(names_class, CLASS_WEIGHT, 1.0) * tokens.attention_mask
    return tokens.input_ids, weights
