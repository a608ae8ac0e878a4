"""Train the editor: a UNet in the instruct-pix2pix layout with its text encoder, on pairs of true composites.

Then distil classifier-free guidance into it (Meng et al. 2023, "On distillation of
guided diffusion models"): a step takes one row of the UNet in place of two.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    DDIMScheduler,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from actors.zoo.recipes.decoder import load_decoded_vae
from actors.zoo.recipes.edit_pairs import (
    DISTILLATION_SHARES,
    SHARES,
    draw_edits,
    editor_families,
    editor_latents,
)
from actors.zoo.recipes.training.language import MAX_TOKENS, TEXT_WIDTH, clip_text_config, clip_tokenizer
from actors.zoo.recipes.training.loop import Loss, Recipe, TrainContext, averaged
from actors.zoo.recipes.training.pictures import garments_of
from actors.zoo.recipes.vae import LATENT_CHANNELS
from engine.sample import PLACEBO_INSTRUCTION
from engine.wardrobe.scene import Scene

BASE_RECIPE = Recipe(name="editor_base", num_steps=19000, learning_rate=5e-4, weight_decay=1e-2)
RECIPE = Recipe(name="editor", num_steps=1500, learning_rate=2e-4, weight_decay=1e-2, ema_decay=0.995, seed=1)
BATCH_SIZE = 48
DROP_TEXT, DROP_IMAGE, DROP_BOTH = 0.06, 0.05, 0.05
# Edits that go a part of the way: instruction and target lie between those of the placebo and those of the edit.
PARTIAL_SHARE = 0.12
# Without guidance a new garment is drawn between all that it could be, and looks like none of them.
GUIDED_KINDS, GUIDANCE_SCALE = ("garment", "colour"), 2.5


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


def make_sampler() -> UniPCMultistepScheduler:
    """Return the scheduler that ships, on the same noise: in few steps its grounds are rougher than DDIM's.

    A classifier that was fine-tuned on smooth gravel told it from real gravel, and used that.
    """
    return UniPCMultistepScheduler.from_config(make_scheduler().config)


@dataclass(frozen=True, kw_only=True)
class EditBatch:
    """Noisy targets, their sources and the velocities to predict, (n, LATENT_CHANNELS, 16, 16); steps, (n,).

    `tokens` are those of the instructions, (n, MAX_TOKENS), `severity` in [0, 1] is (n, 1, 1). `complete` says which
    rows, (n,), have kept both instruction and source.
    """

    noisy: Tensor
    source: Tensor
    steps: Tensor
    velocity: Tensor
    tokens: Tensor
    severity: Tensor
    kinds: NDArray[np.str_]
    complete: NDArray[np.bool_]

    def of(self, rows: NDArray[np.intp]) -> "EditBatch":
        """Return some rows."""
        return EditBatch(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})


@dataclass(frozen=True)
class EditBatches:
    """Draw batches from families of composites: every ordered pair that differs in one thing is an edit.

    `latents` are those of all composites, one family after the other; `shares` are those of the kinds of edits.
    """

    families: list[tuple[Scene, ...]]
    latents: NDArray[np.float16]
    device: torch.device
    shares: Mapping[str, float] = field(default_factory=lambda: SHARES)
    tokenizer: CLIPTokenizer = field(default_factory=clip_tokenizer)
    scheduler: DDIMScheduler = field(default_factory=make_scheduler)

    @classmethod
    def of(cls, context: TrainContext, shares: Mapping[str, float] = SHARES) -> "EditBatches":
        """Open the latents, or make them."""
        families = editor_families(garments_of("zoo", context.fashion_mnist))
        return cls(families, editor_latents(context, families), context.device, shares)

    def draw(self, seed: tuple[int, int], generator: torch.Generator) -> EditBatch:
        """Return the batch of a seed; `generator` draws its noise."""
        rng = np.random.default_rng(seed)
        rows, prompts, kinds = draw_edits(rng, self.families, BATCH_SIZE, self.shares)
        pairs = torch.from_numpy(self.latents[rows].astype(np.float32)).to(self.device)
        source, target = pairs[:, 0], pairs[:, 1]
        drop = rng.random(BATCH_SIZE)
        no_text = drop < DROP_TEXT + DROP_BOTH
        no_image = (drop >= DROP_TEXT) & (drop < DROP_TEXT + DROP_BOTH + DROP_IMAGE)
        prompts = ["" if dropped else prompt for prompt, dropped in zip(prompts, no_text, strict=True)]
        partial = np.where(rng.random(BATCH_SIZE) < PARTIAL_SHARE, rng.random(BATCH_SIZE), 1.0)
        severity = torch.from_numpy(partial.astype(np.float32)).to(self.device)
        target = torch.lerp(source, target, severity[:, None, None, None])
        noise = torch.randn(target.shape, generator=generator).to(self.device)
        steps = torch.randint(self.scheduler.config.num_train_timesteps, (BATCH_SIZE,), generator=generator)
        steps = steps.to(self.device)
        return EditBatch(
            noisy=self.scheduler.add_noise(target, noise, steps),
            source=source * torch.from_numpy(~no_image).to(source)[:, None, None, None],
            steps=steps,
            velocity=self.scheduler.get_velocity(target, noise, steps),
            tokens=self.tokens(prompts),
            severity=severity[:, None, None],
            kinds=np.array(kinds),
            complete=~(no_text | no_image),
        )

    def tokens(self, prompts: list[str]) -> Tensor:
        """Return tokens, (n, MAX_TOKENS)."""
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        ids: Tensor = tokens.input_ids.to(self.device)
        return ids

    def predict(self, editor: nn.ModuleDict, batch: EditBatch) -> Tensor:
        """Return the editor's velocity for a batch, its text between that of a placebo and that of the edit."""
        stay = editor["text"](self.tokens([PLACEBO_INSTRUCTION]))[0]
        text = torch.lerp(stay.float(), editor["text"](batch.tokens)[0].float(), batch.severity)
        return velocity(editor, batch, text)


def velocity(editor: nn.ModuleDict, batch: EditBatch, text: Tensor) -> Tensor:
    """Return what the UNet predicts under embedded texts, (n, MAX_TOKENS, width)."""
    predicted: Tensor = editor["unet"](torch.cat([batch.noisy, batch.source], 1), batch.steps, text).sample
    return predicted.float()


def start_editor_base(context: TrainContext) -> tuple[nn.Module, Loss]:
    """Start on true edits."""
    batches = EditBatches.of(context)
    editor = make_editor(batches.tokenizer, context.size).to(context.device)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        batch = batches.draw((BASE_RECIPE.seed, step), generator)
        return F.mse_loss(batches.predict(editor, batch), batch.velocity), {}

    return editor, loss


def start_editor(context: TrainContext) -> tuple[nn.Module, Loss]:
    """Start to distil the trained editor's guidance into itself; kinds without guidance still learn from true edits."""
    batches = EditBatches.of(context, DISTILLATION_SHARES)
    teacher, editor = (make_editor(batches.tokenizer, context.size).to(context.device) for _ in range(2))
    averaged(BASE_RECIPE, teacher, context)
    editor.load_state_dict(teacher.state_dict())

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        batch = batches.draw((RECIPE.seed, step), generator)
        target = guided_velocity(batches, teacher, batch)
        return F.mse_loss(batches.predict(editor, batch), target), {}

    return editor, loss


@torch.no_grad()
def guided_velocity(batches: EditBatches, teacher: nn.ModuleDict, batch: EditBatch) -> Tensor:
    """Return what the editor is to predict: for edits of GUIDED_KINDS what the teacher says with guidance."""
    rows = np.flatnonzero(batch.complete & np.isin(batch.kinds, GUIDED_KINDS))
    guided = batch.of(rows)
    conditional = batches.predict(teacher, guided)
    unconditional = velocity(teacher, guided, teacher["text"](batches.tokens([""] * len(rows)))[0].float())
    target = batch.velocity.clone()
    target[rows] = torch.lerp(unconditional, conditional, GUIDANCE_SCALE)
    return target


def save_editor(context: TrainContext, folder: Path) -> int:
    """Write the pipeline folder from the last checkpoints, in bf16; return the step it is from."""
    tokenizer = clip_tokenizer()
    editor = make_editor(tokenizer, context.size)
    step = averaged(RECIPE, editor, context)
    pipeline = StableDiffusionInstructPix2PixPipeline(
        vae=load_decoded_vae(context).cpu(),
        text_encoder=editor["text"],
        tokenizer=tokenizer,
        unet=editor["unet"],
        scheduler=make_sampler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.bfloat16)
    pipeline.vae.to(torch.float16)
    pipeline.save_pretrained(folder)
    return step
