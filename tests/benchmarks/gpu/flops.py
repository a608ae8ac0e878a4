"""Floating-point operations of an edit, and how many a second there are at most.

Products of matrices, convolutions and attention count, two for a multiplication with its addition; norms do not.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from torch.utils.flop_counter import FlopCounterMode

from actors.editor.slots.unet import DeepUNet
from actors.models.untyped import Model

META = torch.device("meta")
# Dense bfloat16, TFLOP/s, of NVIDIA's data sheets; the first that is in the device's name.
NOMINAL = {"H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.4, "H200": 989.4, "A100": 312.0, "B200": 2250.0}
NUM_PRODUCTS = 30


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Hold the TFLOP of a UNet row, whole or on kept deep features, and of a picture or text in the other networks."""

    unet_row: float
    kept_row: float
    encoded: float
    decoded: float
    prompt: float
    looked_at: float

    def of(self, calls: Mapping[str, int]) -> float:
        """Return the TFLOP of what an editor did by its own count; rows that were run to no use do not count."""
        return (
            (calls["useful_rows"] - calls["kept_rows"]) * self.unet_row
            + calls["kept_rows"] * self.kept_row
            + calls["encoded"] * self.encoded
            + calls["decoded"] * (self.decoded + self.looked_at)
            + calls["prompts"] * self.prompt
        )


def count_cost(folder: Path, verifier: Path, size: int) -> Cost:
    """Return the cost of a saved pipeline and its verifier at a size in pixels, without running them."""
    import diffusers
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

    unet = _empty(
        lambda: diffusers.UNet2DConditionModel.from_config(_config(diffusers.UNet2DConditionModel, folder, "unet"))
    )
    vae = _empty(lambda: diffusers.AutoencoderKL.from_config(_config(diffusers.AutoencoderKL, folder, "vae")))
    edge = size // 2 ** (len(vae.config.block_out_channels) - 1)
    row = torch.empty(1, unet.config.in_channels, edge, edge, device=META)
    deep = _run_unet(unet, row)
    latents = torch.empty(1, vae.config.latent_channels, edge, edge, device=META)
    picture = torch.empty(1, 3, size, size, device=META)
    texts = [
        _empty(lambda name=name: CLIPTextModel(CLIPTextConfig.from_pretrained(folder / name)))
        for name in ("text_encoder", "text_encoder_2")
        if (folder / name).is_dir()
    ]
    clip = _empty(lambda: CLIPModel(CLIPConfig.from_pretrained(verifier)))
    return Cost(
        unet_row=_tflop(lambda: _run_unet(unet, row)),
        kept_row=_tflop(lambda: _run_unet(unet, row, deep)),
        encoded=_tflop(lambda: vae.encode(picture)),
        decoded=_tflop(lambda: vae.decode(latents)),
        prompt=sum(_tflop(lambda text=text: text(_tokens(text.config))) for text in texts),
        looked_at=_tflop(lambda: clip.get_image_features(_picture_for(clip))),
    )


def nominal_tflops(device: torch.device) -> float | None:
    """Return the most TFLOP a second of a GPU by its data sheet, None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in NOMINAL.items() if part in name), None)


def product_tflops(device: torch.device, edge: int) -> float:
    """Return the TFLOP a second of a product of two square bfloat16 matrices, the median of several, as timed now."""
    left, right = (torch.randn(edge, edge, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(NUM_PRODUCTS):
        start = perf_counter()
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(perf_counter() - start)
    return 2 * edge**3 / 1e12 / statistics.median(seconds[NUM_PRODUCTS // 3 :])


def counted(before: Counter[str], after: Counter[str]) -> Counter[str]:
    """Return what came to a count."""
    return Counter({name: after[name] - before[name] for name in after})


def _empty(make: Callable[[], Model]) -> Model:
    with META:
        return make().eval()


def _config(kind: Model, folder: Path, name: str) -> Model:
    return kind.load_config(folder / name)


def _tflop(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        run()
    return counter.get_total_flops() / 1e12


def _run_unet(unet: Model, row: torch.Tensor, deep: torch.Tensor | None = None) -> torch.Tensor:
    """Run a UNet, or its outermost level on deep features, which are returned."""
    text = torch.empty(1, 77, unet.config.cross_attention_dim, device=META)
    added = None
    if unet.config.addition_embed_type == "text_time":
        width = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        added = {"text_embeds": torch.empty(1, width, device=META), "time_ids": torch.empty(1, 6, device=META)}
    with torch.inference_mode():
        return DeepUNet(unet)(row, torch.empty(1, device=META), text, added, deep)[1]


def _tokens(config: Model) -> torch.Tensor:
    return torch.zeros(1, config.max_position_embeddings, dtype=torch.long, device=META)


def _picture_for(clip: Model) -> torch.Tensor:
    edge = clip.config.vision_config.image_size
    return torch.empty(1, 3, edge, edge, device=META)
