import json
from pathlib import Path

import pytest
import torch
from tiny_models import save_clip, save_language_model

from actors.models.device import fix_threads, precision, resolve_device, weights_dtype
from actors.models.files import ModelFiles
from actors.models.loading import load_image_processor, load_weights
from engine.errors import ModelError, PlacementError
from engine.runfile.fields import ModelConfig, Placement

CPU = torch.device("cpu")


def files_in(folder: Path) -> ModelFiles:
    return ModelFiles(config=ModelConfig(name=str(folder)), folder=str(folder))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    from transformers import AutoModelForImageClassification, ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=3)
    ResNetModel(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no weights for"):
        load_weights(AutoModelForImageClassification, files_in(tmp_path), CPU)


def test_a_model_that_the_loader_does_not_know_is_refused(clip: Path) -> None:
    from transformers import AutoModelForCausalLM

    with pytest.raises(ModelError, match="cannot load model"):
        load_weights(AutoModelForCausalLM, files_in(clip), CPU)


def test_remote_code_is_never_run(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = save_language_model(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="cannot load model"):
        load_weights(AutoModelForCausalLM, files_in(folder), CPU)


def test_image_processors_load_without_torchvision(clip: Path) -> None:
    processor = load_image_processor(files_in(clip))
    assert type(processor).__name__ == "CLIPImageProcessorPil"


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device(Placement()) == CPU
    with pytest.raises(PlacementError, match="CUDA is not available"):
        resolve_device(Placement(num_gpus=0.5))


def test_a_cpu_keeps_weights_in_float32_and_computes_in_bfloat16() -> None:
    model = ModelConfig(name="x", dtype="bfloat16")
    assert weights_dtype(model, CPU) == torch.float32
    with precision(model, CPU):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16
    with pytest.raises(ModelError, match="float16 is not for a CPU"):
        weights_dtype(ModelConfig(name="x", dtype="float16"), CPU)


def test_threads_are_fixed() -> None:
    before = torch.get_num_threads()
    fix_threads(1)
    assert torch.get_num_threads() == 1
    fix_threads(before)
