import json
import shutil
import socket
from pathlib import Path

import pytest
from tiny_models import save_clip

from actors.models import files
from actors.models.files import ModelFiles, resolve_model
from engine.errors import ModelError, ModelUnavailableError
from engine.runfile.fields import ModelConfig


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
    monkeypatch.setattr(files, "ZOO", tmp_path)
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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my.pth", "a file of PyTorch, a pickle that can run code"),
        ("here/net.onnx", "a file of ONNX"),
        ("MODEL.H5", "a file of Keras or TensorFlow"),
        ("forest.joblib", "a pickled object of Python"),
        ("model.safetensors", "a file of weights without a config.json"),
    ],
)
def test_a_single_file_is_named_with_the_way_round_it(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=rf"is {message}, wanted a folder .* set probe.callable: my_model:classify"):
        resolve_model(ModelConfig(name=name), offline=False)


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
    assert files._file_digest(str(blobs / name), 14, 0) == name
