"""Deep features that are kept: what a call of the outermost level alone costs and gives, and whose bits it is."""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from denoise_jobs import order, prompt
from edits import editor, group, pixels
from tiny_pipelines import save_stable_diffusion, save_stable_diffusion_xl, tiny_unet
from torch.utils.flop_counter import FlopCounterMode

from actors.editor.pipelines.loading import load_pipeline
from actors.editor.slots.batcher import SlotBatcher
from actors.editor.slots.memory import Fitted
from actors.editor.slots.steps import DenoiseJob
from actors.editor.slots.unet import DeepFeatures, DeepUNet, UNet
from actors.models.device import fix_threads
from actors.models.files import resolve_model
from engine.errors import ModelError
from engine.runfile.editor import EditorConfig
from engine.runfile.fields import ModelConfig
from engine.sample import Sample


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)


def rows(num: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(num)
    return (
        torch.randn(num, 8, 8, 8, generator=chance),
        torch.linspace(10, 900, num),
        torch.randn(num, 7, 32, generator=chance),
    )


@torch.inference_mode()
def test_the_whole_unet_makes_what_diffusers_makes() -> None:
    torch.manual_seed(0)
    for unet in (
        tiny_unet(8),
        tiny_unet(
            8,
            block_out_channels=(16, 32, 32),
            down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
            layers_per_block=2,
        ),
    ):
        latents, times, text = rows()
        output, _ = DeepUNet(unet)(latents, times, text, None)
        assert torch.equal(output, unet(latents, times, text, return_dict=False)[0])


@torch.inference_mode()
def test_kept_features_give_the_same_at_the_same_place_and_cost_less() -> None:
    torch.manual_seed(0)
    network = DeepUNet(tiny_unet(8))
    latents, times, text = rows()
    with FlopCounterMode(display=False) as whole:
        output, deep = network(latents, times, text, None)
    with FlopCounterMode(display=False) as outer:
        again, _ = network(latents, times, text, None, deep)
    assert torch.equal(output, again)
    assert outer.get_total_flops() < 0.6 * whole.get_total_flops()
    moved, _ = network(latents + 0.1, times, text, None, deep)
    assert not torch.equal(moved, output)


def test_a_unet_of_another_kind_is_refused() -> None:
    with pytest.raises(ModelError, match="deep_cache_interval is for the UNets of Stable Diffusion"):
        DeepUNet(tiny_unet(8, class_embed_type="timestep"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("models") / "sd", "instruct")


@pytest.fixture
def denoise(model: Path) -> UNet:
    config = EditorConfig(model=ModelConfig(name=str(model)), deep_cache_interval=3)
    pipeline, _ = load_pipeline(config, resolve_model(config.model, offline=True), torch.device("cpu"))
    return UNet(pipeline, config.model, caches_features=True)


def run(denoise: UNet, orders: Sequence[DenoiseJob], interval: int = 3) -> tuple[dict[str, torch.Tensor], SlotBatcher]:
    batcher = SlotBatcher(denoise=denoise, num_rows=6, deep_cache_interval=interval)
    return {item.job.key: item.latents for item in batcher.run(deque(orders)) if item.latents is not None}, batcher


def mixture() -> list[DenoiseJob]:
    """Return orders of other lengths and starts, with and without guidance, and guided in a part of their steps."""
    orders = [order(seed, num_steps=5 + seed, skipped=seed % 3, scale=[1.0, 4.0][seed % 2]) for seed in range(8)]
    return [*orders, replace(order(8, num_steps=9, scale=4.0), guided_steps=(2, 5))]


def test_an_edit_that_keeps_features_is_bit_identical_whatever_shares_its_batch(denoise: UNet) -> None:
    together, _ = run(denoise, mixture())
    backwards, _ = run(denoise, mixture()[::-1])
    assert len(together) == 9
    for item in mixture():
        (alone,) = run(denoise, [item])[0].values()
        assert torch.equal(alone, together[item.key])
        assert torch.equal(alone, backwards[item.key])


def test_two_steps_of_three_keep_their_features_and_no_row_mixes(denoise: UNet) -> None:
    orders = [order(seed, num_steps=9, scale=4.0) for seed in range(6)]
    found, batcher = run(denoise, orders)
    assert batcher.calls["useful_rows"] == 6 * 9 * 2
    assert batcher.calls["kept_rows"] == 6 * 6 * 2
    exact, plain = run(denoise, orders, interval=1)
    assert plain.calls["kept_rows"] == 0
    distances = [float((found[key] - exact[key]).abs().mean() / exact[key].abs().mean()) for key in exact]
    assert all(0 < distance < 0.3 for distance in distances)


def test_where_guidance_begins_or_ends_features_are_made_anew(denoise: UNet) -> None:
    wanted = replace(order(8, num_steps=9, scale=4.0), guided_steps=(2, 5))
    _, batcher = run(denoise, [wanted])
    # Whole: steps 0, 3 and 6 as always, and 2 and 5, at which the rows are others.
    assert batcher.calls["useful_rows"] == 6 + 3 * 2
    assert batcher.calls["kept_rows"] == 1 + 2 + 1 + 1


def test_memory_that_runs_out_in_between_changes_no_bit(denoise: UNet) -> None:
    wanted, _ = run(denoise, mixture())
    calls = count()

    def sometimes(*arguments: Any) -> torch.Tensor:  # noqa: ANN401 rows of any kind
        if next(calls) % 4 == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return denoise(*arguments)

    with torch.inference_mode():
        example = torch.zeros(6, 8, 8, 8), torch.zeros(6), [prompt(0)] * 6, [DeepFeatures() for _ in range(6)]
        fitted = Fitted(sometimes, example, name="UNet")
    found, _ = run(fitted, mixture())
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("kind", ["sd", "xl"])
def test_an_editor_can_keep_features_and_says_so(kind: str, model: Path, tmp_path: Path) -> None:
    folder = model if kind == "sd" else save_stable_diffusion_xl(tmp_path / "xl", "instruct")
    stage, plain = (editor(folder, num_inference_steps=4, deep_cache_interval=interval) for interval in (2, 1))
    samples = group("a", num_edits=2)
    made = {item.key: item for item in stage(samples) if isinstance(item, Sample)}
    (alone,) = list(stage([samples[0], samples[2]]))[1:]
    assert alone == made["a_cf00"]
    assert made["a_cf00"].provenance["editor"]["deep_cache_interval"] == 2
    exact = {item.key: item for item in plain(samples)}
    assert not np.array_equal(pixels(made["a_cf00"]), pixels(exact["a_cf00"]))
