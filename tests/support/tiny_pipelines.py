"""Random-weight instances of the real diffusion pipelines at tiny size; their pictures are 32 pixels wide."""

from pathlib import Path

import torch
from tiny_models import clip_text_config, clip_tokenizer, text_tokenizer


def tiny_unet(in_channels: int, **changes: object) -> object:
    """Return a tiny UNet of the SD layout."""
    from diffusers import UNet2DConditionModel

    settings: dict[str, object] = {
        "sample_size": 16, "in_channels": in_channels, "out_channels": 4, "layers_per_block": 1,
        "block_out_channels": (16, 32), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 32, "attention_head_dim": 2,
        "norm_num_groups": 4,
    }  # fmt: skip
    return UNet2DConditionModel(**{**settings, **changes})


def tiny_vae(latent_channels: int = 4, **changes: object) -> object:
    """Return a tiny autoencoder of factor 2."""
    from diffusers import AutoencoderKL

    settings: dict[str, object] = {
        "block_out_channels": (8, 16), "norm_num_groups": 4, "latent_channels": latent_channels, "sample_size": 32,
        "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
        "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
    }  # fmt: skip
    return AutoencoderKL(**{**settings, **changes})


def save_stable_diffusion(folder: Path, method: str, *, plms: bool = False) -> Path:
    """Save a tiny Stable Diffusion 1.x for instruct, img2img or inpaint; its pictures are 32 pixels wide.

    Its scheduler is DDIM's, or with `plms` that of the checkpoints of Stable Diffusion 1.
    """
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    channels = {"instruct": 8, "img2img": 4, "inpaint": 9}[method]
    pipeline_class = {
        "instruct": diffusers.StableDiffusionInstructPix2PixPipeline,
        "img2img": diffusers.StableDiffusionPipeline,
        "inpaint": diffusers.StableDiffusionInpaintPipeline,
    }[method]
    pipeline_class(
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**clip_text_config())),
        tokenizer=clip_tokenizer(),
        unet=tiny_unet(channels),
        scheduler=diffusers.PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
        if plms
        else diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def save_stable_diffusion_xl(folder: Path, method: str) -> Path:
    """Save a tiny SDXL for instruct or img2img; its pictures are 32 pixels wide."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    unet = tiny_unet(
        {"instruct": 8, "img2img": 4}[method], attention_head_dim=(2, 4), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8, transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=32 + 6 * 8, cross_attention_dim=64,
    )  # fmt: skip
    pipeline_class = {
        "instruct": diffusers.StableDiffusionXLInstructPix2PixPipeline,
        "img2img": diffusers.StableDiffusionXLPipeline,
    }[method]
    pipeline_class(
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**clip_text_config())),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**clip_text_config())),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def save_flux_kontext(folder: Path) -> Path:
    """Save a tiny FLUX.1 Kontext."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    torch.manual_seed(0)
    tokenizer = text_tokenizer(bos_eos=True)
    t5 = T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    diffusers.FluxKontextPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=tiny_vae(
            latent_channels=1, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5
        ),
        text_encoder=CLIPTextModel(CLIPTextConfig(**clip_text_config())),
        tokenizer=clip_tokenizer(),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=tokenizer,
        transformer=transformer,
    ).save_pretrained(folder)
    return folder


def save_flux_klein(folder: Path) -> Path:
    """Save a tiny FLUX.2 klein."""
    import diffusers
    from tiny_models import CHAT_TEMPLATE, CHAT_TOKENS
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    tokenizer = text_tokenizer(CHAT_TOKENS)
    tokenizer.chat_template = CHAT_TEMPLATE
    language_model = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=27, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=1024,
    )  # fmt: skip
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=256, axes_dims_rope=[4, 4, 4, 4], guidance_embeds=False,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLFlux2(
        sample_size=32, in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(4, 4), layers_per_block=1, latent_channels=1,
        norm_num_groups=1, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    diffusers.Flux2KleinPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=Qwen3ForCausalLM(language_model),
        tokenizer=tokenizer,
        transformer=transformer,
    ).save_pretrained(folder)
    return folder
