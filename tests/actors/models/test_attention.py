import pytest
import torch
from tiny_pipelines import tiny_unet

from actors.models.attention import set_attention
from engine.errors import ModelError

CPU = torch.device("cpu")


def language_model() -> object:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2,
        )
    )  # fmt: skip


def flux() -> object:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip


@pytest.mark.parametrize(("kernel", "processor"), [("sdpa", "AttnProcessor2_0"), ("flash", "FlashAttnProcessor")])
def test_a_unet_gets_processors(kernel: str, processor: str) -> None:
    unet = tiny_unet(4)
    assert set_attention(unet, kernel, CPU) == processor
    assert {type(item).__name__ for item in unet.attn_processors.values()} == {processor}


def test_flash_and_sdpa_compute_the_same_on_a_unet() -> None:
    torch.manual_seed(0)
    unet = tiny_unet(4).eval()
    latents, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 32)
    results = []
    for kernel in ("sdpa", "flash"):
        set_attention(unet, kernel, CPU)
        with torch.inference_mode():
            results.append(unet(latents, 10, text).sample)
    assert torch.allclose(*results, atol=1e-5)


def test_default_leaves_a_model_alone() -> None:
    assert set_attention(tiny_unet(4), "default", CPU) == "AttnProcessor2_0"
    assert set_attention(flux(), "default", CPU) == "native"
    assert set_attention(language_model(), "default", CPU) == "sdpa"


@pytest.mark.parametrize(("kernel", "backend"), [("sdpa", "native"), ("flash", "_native_flash")])
def test_a_diffusion_transformer_gets_a_backend(kernel: str, backend: str) -> None:
    model = flux()
    assert set_attention(model, kernel, CPU) == backend
    assert {item.processor._attention_backend.value for item in model.modules() if hasattr(item, "processor")} == {
        backend
    }
    set_attention(model, "sdpa", CPU)  # the backend is also global in diffusers


def test_a_transformers_model_gets_an_implementation() -> None:
    model = language_model()
    model.set_attn_implementation("eager")
    assert set_attention(model, "sdpa", CPU) == "sdpa"
    assert model.config._attn_implementation == "sdpa"


def test_a_model_that_ignores_the_call_is_found_out() -> None:
    from transformers import BlipConfig, BlipForConditionalGeneration

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": 8, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2, "pad_token_id": 0}
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config={**small, "image_size": 32}))
    with pytest.raises(ModelError, match="BlipForConditionalGeneration"):
        set_attention(model, "sdpa", CPU)


@pytest.mark.parametrize("make", [lambda: tiny_unet(4), flux, language_model])
def test_xformers_on_a_cpu_is_refused(make: object) -> None:
    with pytest.raises(ModelError, match="xformers runs on CUDA devices only"):
        set_attention(make(), "xformers", CPU)


def test_xformers_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.models.attention.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'counterforge\[gpu\]'"):
        set_attention(tiny_unet(4), "xformers", torch.device("cuda"))


def test_flash_for_a_language_model_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.models.attention.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install flash-attn"):
        set_attention(language_model(), "flash", CPU)


def test_flash_with_a_dtype_it_cannot_take_is_refused() -> None:
    # float8 stands for any dtype that the flash kernel of the device does not take, as float32 on a GPU.
    unet = tiny_unet(4).to(torch.float8_e4m3fn)
    with pytest.raises(ModelError, match="attention flash does not run with"):
        set_attention(unet, "flash", CPU)
