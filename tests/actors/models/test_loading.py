import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from tiny_models import jpeg, save_clip, save_language_model, save_qwen_vl

from actors.images.codec import decode_rgb
from actors.models import loading
from actors.models.device import fix_threads, precision, resolve_device, weights_dtype
from actors.models.loading import (
    ModelFiles,
    load_image_processor,
    load_processor,
    load_tokenizer,
    load_weights,
    resolve_model,
)
from engine.errors import ModelError, ModelUnavailableError, PlacementError
from engine.runfile.fields import ModelConfig, Placement

CPU = torch.device("cpu")


def files_in(folder: Path) -> ModelFiles:
    return ModelFiles(config=ModelConfig(name=str(folder)), folder=str(folder))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def hub_cache(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lay out a hub cache that holds owner/clip at one commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--owner--clip"
    shutil.copytree(clip, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return repository / "snapshots" / commit


def test_a_local_folder_resolves_to_itself(clip: Path) -> None:
    assert resolve_model(ModelConfig(name=str(clip)), offline=True).folder == str(clip)


def test_an_alias_resolves_into_the_zoo(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "ZOO", tmp_path)
    shutil.copytree(clip, tmp_path / "verifier")
    assert resolve_model(ModelConfig(name="zoo/verifier"), offline=True).folder == str(tmp_path / "verifier")
    with pytest.raises(ModelError, match=r"zoo/editr.*'verifier'"):
        resolve_model(ModelConfig(name="zoo/editr"), offline=True)


def test_a_removed_id_names_its_mirror() -> None:
    with pytest.raises(ModelError, match="stable-diffusion-v1-5/stable-diffusion-v1-5"):
        resolve_model(ModelConfig(name="runwayml/stable-diffusion-v1-5"), offline=True)


def test_a_name_that_is_nothing_is_refused() -> None:
    with pytest.raises(ModelError, match="no folder, no hub id"):
        resolve_model(ModelConfig(name="./not/here"), offline=True)


def test_pickled_weights_are_refused(clip: Path, tmp_path: Path) -> None:
    shutil.copy(clip / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin, a pickle"):
        resolve_model(ModelConfig(name=str(tmp_path)), offline=True)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"neither config\.json nor model_index\.json"):
        resolve_model(ModelConfig(name=str(tmp_path)), offline=True)


def test_a_hub_id_is_found_in_the_cache_while_offline(hub_cache: Path) -> None:
    model = ModelConfig(name="owner/clip")
    files = resolve_model(model, offline=True)
    assert files.folder == str(hub_cache)
    assert files.provenance["revision"] == hub_cache.name


def test_a_hub_id_outside_the_cache_says_how_to_fetch_it(hub_cache: Path) -> None:
    with pytest.raises(ModelError, match="hf download owner/other --revision abc"):
        resolve_model(ModelConfig(name="owner/other", revision="abc"), offline=True)


def test_a_hub_that_does_not_answer_may_do_so_later(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        with pytest.raises(ModelUnavailableError, match=r"'owner/name' could not be fetched: .*check the network"):
            resolve_model(ModelConfig(name="owner/name"), offline=False)


def test_the_digest_follows_content_and_not_place(clip: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(clip, copy)
    assert files_in(copy).digest == files_in(clip).digest
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "logit_scale_init_value": 1.0}))
    assert files_in(copy).digest != files_in(clip).digest


def test_the_digest_takes_a_hub_blob_by_its_name(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    name = "ab" * 32
    (blobs / name).write_bytes(b"many gigabytes")
    assert loading._file_digest(str(blobs / name), 14, 0) == name


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
