"""LoRAs of random factors for the tiny pipelines, in folders as `counterforge learn` writes them."""

import json
from pathlib import Path

import numpy as np

from actors.editor.learning.learned_file import FILE, read_learned
from actors.editor.learning.lora_file import LearnedLora
from actors.models.files import ModelFiles
from engine.runfile.editor import AdapterConfig
from engine.runfile.fields import ModelConfig

Pair = tuple[np.ndarray, np.ndarray]


def factors_of(model: Path, *, seed: int = 0, rank: int = 2, size: float = 0.5) -> dict[str, Pair]:
    """Return random factors of the projections of attention of a saved pipeline's UNet."""
    from safetensors.numpy import load_file

    weights = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    drawn = np.random.default_rng(seed)
    ends = (".to_q.weight", ".to_k.weight", ".to_v.weight", ".to_out.0.weight")
    return {
        name.removesuffix(".weight"): (
            drawn.normal(0, size, (rank, weights[name].shape[1])).astype(np.float32),
            drawn.normal(0, size, (weights[name].shape[0], rank)).astype(np.float32),
        )
        for name in sorted(weights)
        if name.endswith(ends)
    }


def save_lora(folder: Path, model: Path, value: str, *, word: str | None = None, seed: int = 0) -> AdapterConfig:
    """Write a LoRA for a model, and return the entry of a run file with its digest."""
    assert json.loads((model / "model_index.json").read_text())  # a saved pipeline
    lora = LearnedLora(
        value=value,
        word=word or value,
        factors=factors_of(model, seed=seed),
        model="tiny",
        model_digest=ModelFiles(config=ModelConfig(name=str(model)), folder=str(model)).digest,
        settings="",
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_bytes(lora.to_bytes())
    return AdapterConfig(value=value, path=str(folder), kind="lora", digest=read_learned(folder).digest)
