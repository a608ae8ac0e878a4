"""Random-weight instances of the real diffusion pipelines at tiny size; their pictures are 32 pixels wide."""

import json
import shutil
from pathlib import Path

import torch
from tiny_models import clip_text_config, clip_tokenizer, text_tokenizer

from actors.models.loading import ModelFiles, load_processor
from engine.runfile.fields import ModelConfig


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


def save_latent_consistency(folder: Path) -> Path:
    """Save a tiny Latent Consistency Model, whose UNet takes the guidance scale."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    diffusers.LatentConsistencyModelPipeline(
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**clip_text_config())),
        tokenizer=clip_tokenizer(),
        unet=tiny_unet(4, time_cond_proj_dim=32),
        scheduler=diffusers.LCMScheduler(),
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


def save_flux(folder: Path, pipeline_class: str = "FluxPipeline") -> Path:
    """Save a tiny FLUX.1 as a pipeline of its layout: FluxPipeline, FluxKontextPipeline, FluxFillPipeline."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    # FLUX.1 Fill gets the source outside of the mask, 4 packed channels, and 2 * 2 pixels of the mask for each of them.
    fills = {"in_channels": 24, "out_channels": 4} if pipeline_class == "FluxFillPipeline" else {"in_channels": 4}
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), guidance_embeds=True, **fills,
    )  # fmt: skip
    text_encoder, tokenizer = tiny_t5()
    getattr(diffusers, pipeline_class)(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=flux_vae(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**clip_text_config())),
        tokenizer=clip_tokenizer(),
        text_encoder_2=text_encoder,
        tokenizer_2=tokenizer,
        transformer=transformer,
    ).save_pretrained(folder)
    return folder


def save_flux_kontext(folder: Path) -> Path:
    """Save a tiny FLUX.1 Kontext."""
    return save_flux(folder, "FluxKontextPipeline")


def flux_vae() -> object:
    """Return a tiny autoencoder of FLUX.1's layout, of factor 2."""
    return tiny_vae(
        latent_channels=1, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5
    )


def tiny_t5() -> tuple[object, object]:
    """Return a tiny T5 encoder and its tokenizer."""
    from transformers import T5Config, T5EncoderModel

    tokenizer = text_tokenizer(bos_eos=True)
    t5 = T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    return T5EncoderModel(t5), tokenizer


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
    diffusers.Flux2KleinPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=flux_2_vae(),
        text_encoder=Qwen3ForCausalLM(language_model),
        tokenizer=tokenizer,
        transformer=flux_2_transformer(guidance_embeds=False),
    ).save_pretrained(folder)
    return folder


def save_flux_2(folder: Path) -> Path:
    """Save a tiny FLUX.2 (dev)."""
    import diffusers
    from tiny_models import CHAT_TOKENS
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    torch.manual_seed(0)
    tokenizer = text_tokenizer(["[IMG]", "[IMG_BREAK]", "[IMG_END]", *CHAT_TOKENS])
    text = {
        "model_type": "mistral", "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16,
        "num_hidden_layers": 31, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 1024,
    }  # fmt: skip
    vision = {
        "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 4,
    }  # fmt: skip
    config = Mistral3Config(text_config=text, vision_config=vision, image_token_index=3, spatial_merge_size=1)
    tokenizer.chat_template = (
        "{% for message in messages %}<|{{ message['role'] }}|>{% for part in message['content'] %}"
        "{{ part['text'] }}{% endfor %}<|end|>{% endfor %}"
    )
    diffusers.Flux2Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=flux_2_vae(),
        text_encoder=Mistral3ForConditionalGeneration(config),
        tokenizer=tokenizer,
        transformer=flux_2_transformer(guidance_embeds=True),
    ).save_pretrained(folder)
    # As on the hub; such a processor cannot be made without torchvision.
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "tokenizer": ["transformers", "PixtralProcessor"]}))
    return folder


def flux_2_transformer(*, guidance_embeds: bool) -> object:
    """Return a tiny transformer of FLUX.2's layout."""
    import diffusers

    return diffusers.Flux2Transformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=256, axes_dims_rope=[4, 4, 4, 4],
        guidance_embeds=guidance_embeds,
    )  # fmt: skip


def flux_2_vae() -> object:
    """Return a tiny autoencoder of FLUX.2's layout."""
    import diffusers

    return diffusers.AutoencoderKLFlux2(
        sample_size=32, in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(4, 4), layers_per_block=1, latent_channels=1,
        norm_num_groups=1, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip


def save_stable_diffusion_3(folder: Path) -> Path:
    """Save a tiny Stable Diffusion 3; its own size is 32 pixels."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(0)
    text_encoder, tokenizer = tiny_t5()
    diffusers.StableDiffusion3Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=tiny_vae(16, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=CLIPTextModelWithProjection(CLIPTextConfig(**clip_text_config())),
        tokenizer=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**clip_text_config())),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=text_encoder,
        tokenizer_3=tokenizer,
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=16, patch_size=1, in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=4,
            joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=64, out_channels=16,
        ),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_chroma(folder: Path) -> Path:
    """Save a tiny Chroma."""
    import diffusers

    torch.manual_seed(0)
    text_encoder, tokenizer = tiny_t5()
    diffusers.ChromaPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=flux_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=diffusers.ChromaTransformer2DModel(
            patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=(4, 4, 8), approximator_hidden_dim=32,
            approximator_layers=1, approximator_num_channels=16,
        ),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_z_image(folder: Path) -> Path:
    """Save a tiny Z-Image."""
    import diffusers
    from tiny_models import CHAT_TEMPLATE, CHAT_TOKENS
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(0)
    tokenizer = text_tokenizer(CHAT_TOKENS)
    tokenizer.chat_template = CHAT_TEMPLATE
    language_model = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=1024,
    )  # fmt: skip
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[8, 4, 4], axes_lens=[256, 32, 32],
    )  # fmt: skip
    diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=tiny_vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=Qwen3Model(language_model),
        tokenizer=tokenizer,
        transformer=transformer,
    ).save_pretrained(folder)
    return folder


def save_qwen_image(folder: Path, pipeline_class: str = "QwenImagePipeline") -> Path:
    """Save a tiny Qwen-Image, or with its processor one of the Qwen-Image-Edit pipelines."""
    import diffusers
    from tiny_models import save_qwen_vl
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    language_model = save_qwen_vl(folder / "qwen_vl")
    processor = load_processor(ModelFiles(config=ModelConfig(name="qwen-vl"), folder=str(language_model)))
    edits = {} if pipeline_class == "QwenImagePipeline" else {"processor": processor}
    channels = 4
    getattr(diffusers, pipeline_class)(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=4, z_dim=channels, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False] * 3,
            latents_mean=[0.0] * channels, latents_std=[1.0] * channels,
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration.from_pretrained(language_model),
        tokenizer=processor.tokenizer,
        transformer=diffusers.QwenImageTransformer2DModel(
            patch_size=2, in_channels=16, out_channels=channels, num_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
        ),
        **edits,
    ).save_pretrained(folder)  # fmt: skip
    shutil.rmtree(language_model)
    return folder
