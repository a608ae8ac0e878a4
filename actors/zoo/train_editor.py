"""Train the editor: a UNet in the instruct-pix2pix layout with its text encoder, on pairs of true composites."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from actors.prompts import PLACEBO_INSTRUCTION
from actors.zoo.edit_pairs import draw_edits, editor_families, editor_latents
from actors.zoo.language import MAX_TOKENS, TEXT_WIDTH, clip_text_config, clip_tokenizer
from actors.zoo.pictures import garments_of
from actors.zoo.train_decoder import load_decoded_vae
from actors.zoo.train_vae import LATENT_CHANNELS
from actors.zoo.training import Recipe, Workshop, averaged, train

RECIPE = Recipe(name="editor", num_steps=12500, learning_rate=5e-4, weight_decay=1e-2)
BATCH_SIZE = 48
DROP_TEXT, DROP_IMAGE, DROP_BOTH = 0.06, 0.05, 0.05
# Edits that go a part of the way: instruction and target lie between those of the placebo and those of the edit.
PARTIAL_SHARE = 0.12


def make_editor(tokenizer: CLIPTokenizer, size: int = 1) -> nn.ModuleDict:
    """Return the untrained UNet and text encoder."""
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=2 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(64 * size, 128 * size, 192 * size),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=size * TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    config = clip_text_config(tokenizer, size)
    return nn.ModuleDict({"unet": unet, "text": CLIPTextModel(config)})


def make_scheduler() -> DDIMScheduler:
    """Return the noise schedule: v-prediction, zero terminal SNR: white snow and dim light are reachable."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        # The latents are not in [-1, 1]: clipping turns every picture grey.
        clip_sample=False,
        set_alpha_to_one=True,
    )


def train_editor(workshop: Workshop, num_steps: int | None = None) -> nn.ModuleDict:
    """Train on latents of families of composites; every ordered pair that differs in one thing is an edit."""
    recipe = replace(RECIPE, num_steps=num_steps or RECIPE.num_steps)
    families = editor_families(garments_of("zoo", workshop.fashion_mnist))
    latents = editor_latents(workshop, families)
    tokenizer, scheduler = clip_tokenizer(), make_scheduler()
    nothing = tokenizer(
        [PLACEBO_INSTRUCTION], padding="max_length", max_length=MAX_TOKENS, return_tensors="pt"
    ).input_ids
    editor = make_editor(tokenizer, workshop.size).to(workshop.device)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((recipe.seed, step))
        rows, prompts = draw_edits(rng, families, BATCH_SIZE)
        pairs = torch.from_numpy(latents[rows].astype(np.float32)).to(workshop.device)
        source, target = pairs[:, 0], pairs[:, 1]
        drop = rng.random(BATCH_SIZE)
        no_text = drop < DROP_TEXT + DROP_BOTH
        no_image = (drop >= DROP_TEXT) & (drop < DROP_TEXT + DROP_BOTH + DROP_IMAGE)
        prompts = ["" if dropped else prompt for prompt, dropped in zip(prompts, no_text, strict=True)]
        tokens = tokenizer(prompts, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        text = editor["text"](tokens.input_ids.to(workshop.device))[0]
        partial = np.where(rng.random(BATCH_SIZE) < PARTIAL_SHARE, rng.random(BATCH_SIZE), 1.0)
        severity = torch.from_numpy(partial.astype(np.float32)).to(workshop.device)
        stay = editor["text"](nothing.to(workshop.device))[0]
        text = torch.lerp(stay.float(), text.float(), severity[:, None, None])
        target = torch.lerp(source, target, severity[:, None, None, None])
        source = source * torch.from_numpy(~no_image).to(source)[:, None, None, None]
        noise = torch.randn(target.shape, generator=generator).to(workshop.device)
        steps = torch.randint(scheduler.config.num_train_timesteps, (BATCH_SIZE,), generator=generator).to(noise.device)
        noisy = scheduler.add_noise(target, noise, steps)
        velocity = scheduler.get_velocity(target, noise, steps)
        predicted = editor["unet"](torch.cat([noisy, source], 1), steps, text).sample.float()
        return F.mse_loss(predicted, velocity), {}

    train(recipe, editor, loss, workshop)
    return editor


def save_editor(workshop: Workshop, folder: Path) -> int:
    """Write the pipeline folder from the last checkpoints, in bf16; return the step it is from."""
    tokenizer = clip_tokenizer()
    editor = make_editor(tokenizer, workshop.size)
    step = averaged(RECIPE, editor, workshop)
    pipeline = StableDiffusionInstructPix2PixPipeline(
        vae=load_decoded_vae(workshop).cpu(),
        text_encoder=editor["text"],
        tokenizer=tokenizer,
        unet=editor["unet"],
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.bfloat16)
    pipeline.vae.to(torch.float16)
    pipeline.save_pretrained(folder)
    return step
