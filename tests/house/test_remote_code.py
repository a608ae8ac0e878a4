"""A model folder is data: what it says of code, and what it holds of it, is never run."""

import ast
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from jinja2.exceptions import SecurityError
from repository import ROOT
from tiny_models import save_clip, save_language_model
from tiny_pipelines import save_stable_diffusion

from actors.editor.pipelines.loading import load_pipeline
from actors.models.files import resolve_model
from actors.models.loading import load_tokenizer, load_weights
from engine.errors import ModelError
from engine.runfile.editor import EditorConfig
from engine.runfile.fields import ModelConfig

CPU = torch.device("cpu")
HOUSE = ("engine", "actors", "cluster")
WEIGHTLESS = {
    "AutoImageProcessor",
    "AutoTokenizer",
    "PreTrainedTokenizerFast",
    "AutoProcessor",
    "processor_class",
    "AutoConfig",
}
# What a call may hold and must: weights in safetensors, no code of a model's own.
SAFE = {"use_safetensors": True, "trust_remote_code": False}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_stable_diffusion(folder / "instruct", "instruct")
    save_stable_diffusion(folder / "img2img", "img2img")
    save_language_model(folder / "words")
    save_clip(folder / "clip")
    return folder


class Evil:
    """Make a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (str(self.mark),)


def evil_code(mark: Path) -> str:
    return f"import os\nos.mkdir({str(mark)!r})\nclass Pipe: pass\nclass UNet: pass\nclass Model: pass\n"


def change_json(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def custom_pipeline(folder: Path, mark: Path) -> None:
    (folder / "pipe.py").write_text(evil_code(mark))
    change_json(folder / "model_index.json", _class_name=["pipe", "Pipe"])


def custom_component(folder: Path, mark: Path) -> None:
    (folder / "unet" / "own.py").write_text(evil_code(mark))
    change_json(folder / "model_index.json", unet=["own", "UNet"])


def foreign_library(folder: Path, mark: Path) -> None:
    change_json(folder / "model_index.json", unet=["antigravity", "UNet"])


def pickled_unet(folder: Path, mark: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil(mark)))


def pickled_text_encoder(folder: Path, mark: Path) -> None:
    (folder / "text_encoder" / "model.safetensors").unlink()
    (folder / "text_encoder" / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(mark)))


def pickle_by_another_name(folder: Path, mark: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(pickle.dumps(Evil(mark)))


def kernel_of_the_hub(folder: Path, mark: Path) -> None:
    change_json(folder / "text_encoder" / "config.json", attn_implementation="somebody/attention")


def kernel_of_a_part(folder: Path, mark: Path) -> None:
    change_json(folder / "text_encoder" / "config.json", text_config={"_attn_implementation": {"": "a/kernel:f"}})


@pytest.mark.parametrize("method", ["instruct", "img2img"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (custom_pipeline, r"_class_name .* is \['pipe', 'Pipe'\], a pipeline with code of its own, which is never run"),
        (custom_component, r"cannot load model .* contains custom code in own\.py"),
        (foreign_library, "antigravity is not one of the libraries"),
        (pickled_unet, "no file named diffusion_pytorch_model.safetensors"),
        (pickled_text_encoder, "no file named model.safetensors"),
        (pickle_by_another_name, "cannot load model"),
        (kernel_of_the_hub, "'somebody/attention', code from the hub, which is never run"),
        (kernel_of_a_part, "code from the hub, which is never run"),
    ],
)
def test_a_pipeline_that_brings_code_or_pickles_is_refused_in_words(
    saved: Path, tmp_path: Path, method: str, change: Callable[[Path, Path], None], said: str
) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(saved / method, folder)
    change(folder, tmp_path / "ran")
    config = EditorConfig(model=ModelConfig(name=str(folder)), method=method)
    with pytest.raises(ModelError, match=said):
        load_pipeline(config, resolve_model(config.model, offline=True), CPU)
    assert not (tmp_path / "ran").exists()


def test_code_beside_a_pipeline_that_needs_none_is_not_run(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(saved / "instruct", folder)
    for name in ("pipeline.py", "unet/unet.py", "text_encoder/own.py"):
        (folder / name).write_text(evil_code(tmp_path / "ran"))
    change_json(folder / "text_encoder" / "config.json", auto_map={"AutoModel": "own.Model"})
    config = EditorConfig(model=ModelConfig(name=str(folder)))
    load_pipeline(config, resolve_model(config.model, offline=True), CPU)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt"])
def test_a_folder_of_pickles_alone_is_refused_and_not_read(saved: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(saved / "words" / "config.json", tmp_path)
    (tmp_path / name).write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(ModelError, match=f"only {name}, a pickle that can run code: save it with save_pretrained"):
        resolve_model(ModelConfig(name=str(tmp_path)), offline=True)
    assert not (tmp_path / "ran").exists()


def test_safetensors_of_a_part_do_not_open_the_door_for_pickled_weights(saved: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "words"
    shutil.copytree(saved / "words", folder)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    model = ModelConfig(name=str(folder))
    with pytest.raises(ModelError, match=r"no file named model\.safetensors"):
        load_weights(AutoModelForCausalLM, resolve_model(model, offline=True), CPU)
    assert not (tmp_path / "ran").exists()


def test_a_pickled_adapter_beside_the_weights_is_not_run(saved: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "words"
    shutil.copytree(saved / "words", folder)
    adapter = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": str(folder)}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    model = ModelConfig(name=str(folder))
    with pytest.raises(ModelError):
        load_weights(AutoModelForCausalLM, resolve_model(model, offline=True), CPU)
    assert not (tmp_path / "ran").exists()


def test_a_chat_template_cannot_reach_python(saved: Path, tmp_path: Path) -> None:
    folder = save_language_model(tmp_path / "words", template="{{ messages.__class__.__base__.__subclasses__() }}")
    tokenizer = load_tokenizer(resolve_model(ModelConfig(name=str(folder)), offline=True))
    with pytest.raises(SecurityError):
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)


def test_an_alias_does_not_lead_out_of_the_zoo() -> None:
    with pytest.raises(ModelError, match="not in the zoo"):
        resolve_model(ModelConfig(name="zoo/../models/patient"), offline=True)


def test_every_model_is_loaded_from_safetensors_without_code_of_its_own() -> None:
    """Look at each call of from_pretrained in the code."""
    seen = 0
    for folder in HOUSE:
        for path in (ROOT / folder).rglob("*.py"):
            for call in ast.walk(ast.parse(path.read_text())):
                if not isinstance(call, ast.Call) or not ast.unparse(call.func).endswith(".from_pretrained"):
                    continue
                seen += 1
                given = {each.arg: ast.literal_eval(each.value) for each in call.keywords if each.arg in SAFE}
                where = f"{path.name}:{call.lineno}: {ast.unparse(call)}"
                assert all(SAFE[str(name)] is value for name, value in given.items()), where
                if ast.unparse(call.func).split(".")[0] not in WEIGHTLESS:
                    assert "use_safetensors" in given, where
    assert seen > 5
