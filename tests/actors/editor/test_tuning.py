"""Editors tuned to a machine: layout, attention kernel, rows of a call, compiler; a row's bits stay its own."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from edits import editor, group, pixels
from tiny_pipelines import save_flux_kontext, save_stable_diffusion, save_stable_diffusion_xl

from actors.editor.pipelines.loading import load_pipeline
from actors.editor.slots.drawing import SlotDrawing
from actors.editor.slots.layout import lay_out
from actors.editor.slots.packed import can_pack
from actors.models.device import fix_threads, precision
from actors.models.files import resolve_model
from engine.errors import ModelError
from engine.runfile.editor import EditorConfig
from engine.runfile.fields import ModelConfig
from engine.sample import Sample

CPU = torch.device("cpu")
# Torch's compiler imports parts of torch that are deprecated.
COMPILER_WARNS = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.fixture(autouse=True)
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERFORGE_CACHE", str(tmp_path / "cache"))
    fix_threads(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("models") / "sd", "instruct")


@pytest.fixture
def unet_calls(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Count the calls of every UNet by their rows."""
    from diffusers import UNet2DConditionModel

    calls: Counter[int] = Counter()
    forward = UNet2DConditionModel.forward

    def counted(self: UNet2DConditionModel, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        calls[len(sample)] += 1
        return forward(self, sample, *args, **kwargs)

    monkeypatch.setattr(UNet2DConditionModel, "forward", counted)
    return calls


def record(stage: object) -> dict[str, object]:
    drawing = stage.drawing
    assert isinstance(drawing, SlotDrawing)
    return drawing.record


def zoo_outputs(dtype: Literal["float32", "bfloat16"], *, laid_out: bool, wrong: bool = False) -> list[torch.Tensor]:
    """Return what encoder, decoder and UNet of the zoo's editor give; `wrong` halves the UNet's first channel."""
    config = EditorConfig(model=ModelConfig(name="zoo/editor", dtype=dtype))
    pipeline, _ = load_pipeline(config, resolve_model(config.model, offline=True), CPU)
    if laid_out:
        assert lay_out(pipeline, config.model, "off") == "channels_last"
        assert pipeline.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    if wrong:
        pipeline.unet.conv_in.weight.detach()[0] /= 2
    chance = torch.Generator().manual_seed(0)
    latents, text = torch.randn(8, 24, 16, 16, generator=chance), torch.randn(8, 32, 128, generator=chance)
    pictures, times = torch.rand(8, 3, 64, 64, generator=chance), torch.linspace(0, 999, 8)
    with torch.inference_mode(), precision(config.model, CPU):
        encoded = pipeline.vae.encode(pictures).latents
        decoded = pipeline.vae.decode(encoded, return_dict=False)[0]
        predicted = pipeline.unet(latents.to(pipeline.unet.dtype), times, text, return_dict=False)[0]
    return [encoded.float(), decoded.float(), predicted.float()]


def test_on_a_cpu_channels_last_is_as_near_to_float32_as_the_contiguous_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal bits are a property of a processor, whose kernels for the two layouts may round differently.

    Distances differ by up to 3 % on AVX2, AVX-512 and AVX-512 with bfloat16; the wrong weights are 8 times as far.
    """
    monkeypatch.setattr("actors.editor.slots.layout.can_pack", lambda: False)
    exact, plain = zoo_outputs("float32", laid_out=False), zoo_outputs("bfloat16", laid_out=False)
    bounds = [1.25 * (near - far).norm() for near, far in zip(plain, exact, strict=True)]
    found, wrong = (zoo_outputs("bfloat16", laid_out=True, wrong=wrong) for wrong in (False, True))
    assert all((near - far).norm() < bound for near, far, bound in zip(found, exact, bounds, strict=True))
    assert (wrong[2] - exact[2]).norm() > 3 * bounds[2]


@pytest.mark.skipif(not can_pack(), reason="oneDNN has no bfloat16 on this processor")
def test_bfloat16_is_packed_where_nothing_compiles(model: Path) -> None:
    stage = editor(model, model=ModelConfig(name=str(model), dtype="bfloat16"))
    assert record(stage)["layout"] == "packed"
    assert stage.pipeline.unet.conv_in.weight.is_mkldnn
    pipeline, _ = load_pipeline(stage.config, resolve_model(stage.config.model, offline=True), CPU)
    assert lay_out(pipeline, stage.config.model, "default") == "channels_last"


def test_float32_stays_as_it_is(model: Path) -> None:
    stage = editor(model)
    assert record(stage)["layout"] == "contiguous"
    assert stage.pipeline.unet.dtype == torch.float32


def test_the_fastest_attention_is_measured_once_and_named(
    model: Path, tmp_path: Path, unet_calls: Counter[int]
) -> None:
    first = editor(model, attention="fastest")
    assert record(first)["attention"] in ("AttnProcessor2_0", "FlashAttnProcessor")
    assert unet_calls[12] > 10
    unet_calls.clear()
    second = editor(model, attention="fastest")
    assert unet_calls == {12: 1}  # the example alone
    assert second.provenance == first.provenance
    (path,) = (tmp_path / "cache").iterdir()
    about = json.loads(path.read_text())["about"]
    assert about["rows"] == 12
    assert about["digest"] == first.provenance["model"]["digest"]


def test_another_shape_is_another_question(model: Path, tmp_path: Path) -> None:
    editor(model, attention="fastest")
    editor(model, attention="fastest", batch_size=2)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_the_rows_of_a_call_can_be_found(model: Path, tmp_path: Path, unet_calls: Counter[int]) -> None:
    first = editor(model, unet_rows="auto")
    assert set(unet_calls) == {1, 2, 3, 6, 12}
    unet_calls.clear()
    list(first(group("a", num_edits=3)))
    # An edit with two scales has three rows, so that no call of the batcher can have fewer.
    assert set(unet_calls) == {record(first)["unet_rows"]}
    assert editor(model, unet_rows="auto").provenance == first.provenance


@pytest.mark.parametrize("rows", [2, 5, 100])
def test_the_rows_of_a_call_can_be_set(model: Path, rows: int, unet_calls: Counter[int]) -> None:
    stage = editor(model, unet_rows=rows)
    made = [item for item in stage(group("a", num_edits=3)) if isinstance(item, Sample)]
    assert len(made) == 5
    assert set(unet_calls) == {min(rows, 12)}
    assert record(stage)["unet_rows"] == min(rows, 12)


def test_what_is_drawn_in_batches_has_nothing_to_tune(tmp_path: Path) -> None:
    folder = save_flux_kontext(tmp_path / "kontext")
    with pytest.raises(
        ModelError, match=r"^attention: fastest: only for pipelines .*kontext' is a FluxKontextPipeline"
    ):
        editor(folder, attention="fastest", size=32)
    with pytest.raises(ModelError, match=r"^deep_cache_interval, compile: only for pipelines that are drawn in slots"):
        editor(folder, compile="default", deep_cache_interval=2, size=32)


@pytest.mark.slow
@COMPILER_WARNS
def test_a_compiled_editor_draws_the_same_picture_and_each_row_alone_as_in_a_batch(model: Path) -> None:
    settings = {"model": ModelConfig(name=str(model), dtype="bfloat16"), "attention": "flash"}
    samples = [*group("a", num_edits=2), *group("b", num_edits=3)]
    plain = {item.key: item for item in editor(model, **settings)(samples)}
    stage = editor(model, **settings, compile="default")
    made = {item.key: item for item in stage(samples)}
    for key in ("a_cf00", "b_cf02"):
        source = made[key.split("_")[0]]
        (alone,) = list(stage([source, next(sample for sample in samples if sample.key == key)]))[1:]
        assert alone == made[key]
        difference = np.abs(pixels(made[key]).astype(int) - pixels(plain[key]))
        assert difference.mean() < 3
    assert stage.pipeline.unet._compiled_call_impl is not None
    assert made["a_cf00"].provenance["editor"]["compile"] == "default"


@pytest.mark.slow
@COMPILER_WARNS
def test_sdxl_can_be_compiled(tmp_path: Path) -> None:
    folder = save_stable_diffusion_xl(tmp_path / "xl", "img2img")
    stage = editor(folder, method="img2img", compile="default")
    assert all(isinstance(item, Sample) for item in stage(group("a", num_edits=2)))
