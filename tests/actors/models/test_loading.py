import json
from pathlib import Path

import pytest
import torch
from tiny_classifiers import save_checkpoint
from tiny_models import jpeg, save_clip, save_language_model, save_qwen_vl

from actors.images.codec import decode_rgb
from actors.models import loading
from actors.models.device import fix_threads, precision, resolve_device, weights_dtype
from actors.models.files import ModelFiles
from actors.models.loading import load_image_processor, load_processor, load_tokenizer, load_weights
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


@pytest.mark.parametrize("field", ["image_processor_type", "feature_extractor_type"])
@pytest.mark.parametrize("name", ["MobileNetV2", "ViT", "ConvNext", "Levit"])
def test_an_image_processor_under_its_old_name_is_the_same(field: str, name: str, tmp_path: Path) -> None:
    import transformers

    today = getattr(transformers, f"{name}ImageProcessorPil")()
    today.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    del settings["image_processor_type"]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**settings, field: f"{name}FeatureExtractor"}))
    (tmp_path / "config.json").write_text("{}")
    processor = load_image_processor(files_in(tmp_path))
    assert type(processor) is type(today)
    assert processor.to_dict() == today.to_dict()


def test_a_head_of_another_size_than_its_names_is_named(tmp_path: Path) -> None:
    from transformers import AutoModelForImageClassification

    folder = save_checkpoint(tmp_path / "model", "vit", ["a", "b", "c"])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "a", "1": "b"}}))
    with pytest.raises(ModelError, match=r"classifier\.bias has the shape \(3,\) in its weights, \(2,\) by its config"):
        load_weights(AutoModelForImageClassification, files_in(folder), CPU)


def without(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a package be one that is not installed."""
    monkeypatch.setattr(loading, "_is_missing", lambda name: name == package)


@pytest.mark.parametrize("is_named", [True, False])
def test_a_chat_model_that_sees_needs_no_torchvision_for_videos(is_named: bool, tmp_path: Path) -> None:
    from transformers import Qwen2VLImageProcessorPil

    folder = save_qwen_vl(tmp_path)
    if not is_named:  # as in Qwen3-VL, whose type tells the processor
        record = json.loads((folder / "preprocessor_config.json").read_text())
        del record["processor_class"]
        (folder / "preprocessor_config.json").write_text(json.dumps(record))
    processor = load_processor(files_in(folder))
    assert type(processor).__name__ == "Qwen2_5_VLProcessor"
    image = decode_rgb(jpeg(size=(64, 96)))
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}],
        add_generation_prompt=True,
    )
    inputs = processor(images=[image], text=[text], return_tensors="pt")
    wanted = Qwen2VLImageProcessorPil.from_pretrained(folder)(images=[image], return_tensors="pt")
    assert torch.equal(inputs["pixel_values"], wanted["pixel_values"])
    num_patches = int(wanted["image_grid_thw"].prod()) // 4
    assert (inputs["input_ids"] == processor.image_token_id).sum() == num_patches > 1


def test_a_tokenizer_that_wants_sentencepiece_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "SiglipTokenizer"}')
    without("sentencepiece", monkeypatch)

    def as_without(*where: object, **settings: object) -> None:
        raise ImportError("\nSiglipTokenizer requires the SentencePiece library but it was not found")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", as_without)
    with pytest.raises(ModelError, match=r'needs sentencepiece for a tokenizer.*: pip install "counterforge\[sentenc'):
        load_tokenizer(files_in(tmp_path))


def test_a_processor_that_wants_torchvision_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_qwen_vl(tmp_path)
    record = json.loads((folder / "preprocessor_config.json").read_text())
    record["processor_class"] = "PixtralProcessor"
    (folder / "preprocessor_config.json").write_text(json.dumps(record))
    without("torchvision", monkeypatch)
    with pytest.raises(
        ModelError, match=r'needs torchvision for a processor.*: pip install "counterforge\[torchvision\]"'
    ):
        load_processor(files_in(folder))


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
