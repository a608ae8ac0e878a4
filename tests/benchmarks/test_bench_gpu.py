"""The benchmarks of a GPU, to their end on a CPU: their code, and what they count."""

from pathlib import Path

import pytest
import torch

import tests.benchmarks.bench_gpu
from engine.figures.figures import read_figures
from tests.benchmarks.bench_gpu import COMMAND, main
from tests.benchmarks.gpu.flops import count_cost
from tests.benchmarks.gpu.subjects import (
    CLIP_B_TEXT,
    CLIP_B_VISION,
    CLIP_BIG_G,
    CLIP_L,
    UNET_SD15,
    UNET_SDXL,
    VAE,
    subjects,
)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_part_runs_at_tiny_size_and_writes_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COUNTERFORGE_CACHE", str(tmp_path / "cache"))
    # The other editor takes the same way, and as long again: `make bench-gpu ARGS="--size tiny"` measures both.
    monkeypatch.setattr(tests.benchmarks.bench_gpu, "subjects", lambda scale: subjects(scale)[-1:])
    main(["--size", "tiny", "--rounds", "1", "--out", str(tmp_path)])
    figures, _ = read_figures(COMMAND, tmp_path)
    values = {figure.name: figure.value for figure in figures}
    spent = [value for key, value in values.items() if key.startswith("sdxl-tiny.spent.")]
    assert len(spent) == 13
    assert all(value > 0 for value in spent)
    for figure in ("engine_efficiency", "engine_efficiency_few_steps", "closed_speed_up", "open_speed_up"):
        assert values[f"sdxl-tiny.{figure}"] > 0
    assert 0 < values["sdxl-tiny.mfu_of_product"] < 1
    assert values["sdxl-tiny.open_accepted"] == values["sdxl-tiny.closed_accepted"] == 1
    assert all(figure.target is None for figure in figures)
    assert "sdxl-tiny.closed_speed_up" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("unet", "size", "row", "kept", "decoded"),
    [(UNET_SD15, 512, 0.8033, 0.31, 2.5145), (UNET_SDXL, 1024, 6.7612, 0.45, 10.4704)],
    ids=["sd15", "sdxl"],
)
def test_a_row_of_the_true_architectures_costs_what_is_known(
    unet: dict[str, object], size: int, row: float, kept: float, decoded: float, tmp_path: Path
) -> None:
    import diffusers
    from transformers import CLIPConfig, CLIPTextConfig

    with torch.device("meta"):
        diffusers.UNet2DConditionModel(**unet).save_config(tmp_path / "unet")
        diffusers.AutoencoderKL(**VAE).save_config(tmp_path / "vae")
    CLIPTextConfig(**CLIP_L).save_pretrained(tmp_path / "text_encoder")
    CLIPTextConfig(**CLIP_BIG_G).save_pretrained(tmp_path / "text_encoder_2")
    CLIPConfig(text_config=CLIP_B_TEXT, vision_config=CLIP_B_VISION).save_pretrained(tmp_path / "clip")
    cost = count_cost(tmp_path, tmp_path / "clip", size)
    assert cost.unet_row == pytest.approx(row, abs=1e-4)
    assert cost.kept_row == pytest.approx(kept, rel=0.05)
    assert cost.decoded == pytest.approx(decoded, abs=1e-4)
    assert cost.prompt == pytest.approx(0.0133 + 0.0979, abs=1e-3)


def test_the_full_size_wants_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit):
        main([])
    assert "wants a CUDA device, and there is none: --size tiny runs the same code" in capsys.readouterr().err
