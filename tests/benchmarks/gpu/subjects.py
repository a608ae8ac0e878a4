"""The editors that are measured: true architectures with random weights, which cost what trained ones cost.

They are made on the device and saved as `from_pretrained` reads them, so that the real editor loads them by path.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tiny_models import clip_tokenizer, save_clip
from tiny_pipelines import save_stable_diffusion, save_stable_diffusion_xl

from actors.models.untyped import Model, Pipeline, Tokenizer

# CLIP's text encoders; the vocabulary is theirs, of which the tokenizer of single letters uses a part.
CLIP_L = {
    "vocab_size": 49_408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 77, "projection_dim": 768,
}  # fmt: skip
CLIP_BIG_G = {
    **CLIP_L, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "projection_dim": 1280, "hidden_act": "gelu",
}  # fmt: skip
CLIP_B_TEXT = {**CLIP_L, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "projection_dim": 512}
CLIP_B_VISION = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 32, "projection_dim": 512,
}  # fmt: skip
# What differs from diffusers' defaults, which are Stable Diffusion 1's.
UNET_SD15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
UNET_SDXL = {
    "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
    "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Hold an editor and how it is used: img2img at `strength` with guidance, `size` pixels, `batch_size` edits.

    `open_steps` is how many steps a better solver takes. `efficiency`, `closed` and `mfu` are targets of figures 1, 2
    and 3, None at a size that says nothing.
    """

    name: str
    size: int
    num_inference_steps: int
    open_steps: int
    batch_size: int
    save: Callable[[Path, torch.device], object]
    save_verifier: Callable[[Path, torch.device], object]
    strength: float = 0.6
    guidance_scale: float = 7.5
    efficiency: float | None = None
    closed: float | None = None
    mfu: float | None = None

    @property
    def steps_run(self) -> int:
        """Return the steps of an edit, as pipelines count them."""
        return int(self.num_inference_steps * self.strength)


def subjects(scale: str) -> list[Subject]:
    """Return what is measured at a scale: `full`, or `tiny`, which says only that the code runs."""
    if scale == "tiny":
        return [
            Subject(
                name=f"{name}-tiny", size=32, num_inference_steps=5, open_steps=2, batch_size=4, save=save,
                save_verifier=lambda folder, _: save_clip(folder),
            )
            for name, save in (
                ("sd15", lambda folder, _: save_stable_diffusion(folder, "img2img")),
                ("sdxl", lambda folder, _: save_stable_diffusion_xl(folder, "img2img")),
            )
        ]  # fmt: skip
    return [
        Subject(
            name="sd15-512", size=512, num_inference_steps=50, open_steps=20, batch_size=32, save=save_sd15,
            save_verifier=save_clip_b32, efficiency=0.98, closed=2.0, mfu=0.40,
        ),
        Subject(
            name="sdxl-1024", size=1024, num_inference_steps=30, open_steps=20, batch_size=8, save=save_sdxl,
            save_verifier=save_clip_b32, efficiency=0.98, closed=1.6, mfu=0.55,
        ),
    ]  # fmt: skip


def save_sd15(folder: Path, device: torch.device) -> None:
    """Save Stable Diffusion 1.5 in bfloat16: 860 M weights in its UNet."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    with _made_on(device):
        parts = {
            "unet": diffusers.UNet2DConditionModel(**UNET_SD15),
            "vae": diffusers.AutoencoderKL(**VAE, sample_size=512, scaling_factor=0.18215),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**CLIP_L, **_special(_tokenizer()))),
        }
    _save(
        diffusers.StableDiffusionPipeline(
            **_halved(parts), tokenizer=_tokenizer(), safety_checker=None, feature_extractor=None,
            scheduler=diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False),
            requires_safety_checker=False,
        ),
        folder,
    )  # fmt: skip


def save_sdxl(folder: Path, device: torch.device) -> None:
    """Save Stable Diffusion XL in bfloat16: 2.6 G weights in its UNet."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    special = _special(_tokenizer())
    with _made_on(device):
        parts = {
            "unet": diffusers.UNet2DConditionModel(**UNET_SDXL),
            "vae": diffusers.AutoencoderKL(**VAE, sample_size=1024, scaling_factor=0.13025, force_upcast=True),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**CLIP_L, **special)),
            "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_BIG_G, **special)),
        }
    _save(
        diffusers.StableDiffusionXLPipeline(
            **_halved(parts), tokenizer=_tokenizer(), tokenizer_2=_tokenizer(), add_watermarker=False,
            scheduler=diffusers.EulerDiscreteScheduler(**SCHEDULE, timestep_spacing="leading"),
            force_zeros_for_empty_prompt=True,
        ),
        folder,
    )  # fmt: skip


def save_clip_b32(folder: Path, device: torch.device) -> None:
    """Save CLIP ViT-B/32, which judges."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

    tokenizer = _tokenizer()
    with _made_on(device):
        model = CLIPModel(
            CLIPConfig(
                text_config={**CLIP_B_TEXT, **_special(tokenizer)}, vision_config=CLIP_B_VISION, projection_dim=512
            )
        )
    model.to(torch.bfloat16).save_pretrained(folder)
    size = {"height": 224, "width": 224}
    CLIPProcessor(CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size=size), tokenizer).save_pretrained(folder)


def _made_on(device: torch.device) -> torch.device:
    torch.manual_seed(0)
    return device


def _halved(parts: dict[str, Model]) -> dict[str, Model]:
    return {name: part.to(torch.bfloat16) for name, part in parts.items()}


def _save(pipeline: Pipeline, folder: Path) -> None:
    pipeline.save_pretrained(folder, safe_serialization=True)


def _tokenizer() -> Tokenizer:
    tokenizer = clip_tokenizer()
    tokenizer.model_max_length = 77
    return tokenizer


def _special(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the numbers of the tokens whose place CLIP looks for."""
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
