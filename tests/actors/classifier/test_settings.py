"""What a checkpoint's JSON files say before its weights are loaded: refusals and remarks, each in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_classifiers import save_checkpoint

from actors.classifier import settings
from actors.classifier.settings import checkpoint_remarks, output_remarks
from engine.errors import ModelError
from engine.runfile.fields import ModelConfig
from engine.runfile.probe import ProbeConfig

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "model", "vit", ["boot", "bag"])


def change(file: Path, **fields: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def remarks(checkpoint: Path, classes: tuple[str, ...] = ("bag", "boot")) -> list[str]:
    return checkpoint_remarks(ModelConfig(name=str(checkpoint)), classes, offline=False)


def test_a_checkpoint_that_names_its_classes_needs_no_remark_and_no_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"")
    assert remarks(checkpoint) == []


def test_classes_that_do_not_match_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ModelError, match="does not know 'coat', it knows 'boot', 'bag'"):
        remarks(checkpoint, ("bag", "coat"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id2label": {"1": "boot", "2": "bag"}}, "numbers 2 outputs '1', '2'"),
        ({"problem_type": "multi_label_classification"}, "trained for multi label classification"),
        ({"num_channels": 4}, "sees 4 channels, images have 3"),
        ({"num_channels": 1}, r"sees grey images .* preprocessor_config.json is for colour: set image_mean"),
    ],
)
def test_a_head_or_an_input_that_cannot_work_is_refused(checkpoint: Path, fields: Any, message: str) -> None:  # noqa: ANN401
    change(checkpoint / "config.json", **fields)
    with pytest.raises(ModelError, match=message):
        remarks(checkpoint)


def test_the_file_of_the_image_processor_is_named_where_it_is_missing(checkpoint: Path) -> None:
    nested = (checkpoint / "preprocessor_config.json").rename(checkpoint / "processor_config.json")
    with pytest.raises(ModelError, match=r"has no preprocessor_config\.json.*AutoImageProcessor.*save_pretrained"):
        remarks(checkpoint)
    nested.write_text(json.dumps({"image_processor": json.loads(nested.read_text())}))
    assert remarks(checkpoint) == []


def test_a_broken_json_file_is_named(checkpoint: Path) -> None:
    (checkpoint / "preprocessor_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"preprocessor_config\.json cannot be read as JSON: Expecting property name"):
        remarks(checkpoint)


def test_what_may_go_wrong_is_remarked(checkpoint: Path) -> None:
    change(checkpoint / "config.json", architectures=["ViTModel"], id2label={"0": "LABEL_0", "1": "LABEL_1"})
    change(checkpoint / "preprocessor_config.json", do_resize=False)
    order, kind, size = remarks(checkpoint)
    assert "taken in the order of the run's, 0 as 'bag', 1 as 'boot'" in order
    assert "saved as a ViTModel, which may have no head" in kind
    assert "do_resize: false in its preprocessor_config.json: all images must have one size" in size


def test_a_checkpoint_of_timm_names_the_packages_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet10t", "label_names": ["bag", "boot"]}))
    monkeypatch.setattr(settings, "find_spec", lambda package: None)
    with pytest.raises(ModelError, match="checkpoint of timm, which needs timm and torchvision here: pip install timm"):
        remarks(tmp_path)
    monkeypatch.setattr(settings, "find_spec", lambda package: package)
    assert remarks(tmp_path) == []


def test_of_a_model_on_the_hub_its_json_files_alone_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    files: dict[str, dict[str, Any]] = {
        "config.json": {"id2label": {"0": "boot", "1": "bag"}},
        "preprocessor_config.json": {"do_resize": True},
    }
    monkeypatch.setattr(settings, "fetch_json", lambda model, name: files.get(name))
    hub = ModelConfig(name="owner/not-in-the-cache")
    assert checkpoint_remarks(hub, ("bag", "boot"), offline=False) == []
    with pytest.raises(ModelError, match="does not know 'coat'"):
        checkpoint_remarks(hub, ("bag", "coat"), offline=False)
    files.clear()  # the hub does not answer
    assert checkpoint_remarks(hub, ("bag", "coat"), offline=False) == []
    with pytest.raises(ModelError, match="is not in this machine's hub cache"):
        checkpoint_remarks(hub, ("bag", "boot"), offline=True)


def test_the_columns_of_a_function_are_said() -> None:
    assert output_remarks(ProbeConfig(callable="not_there:ask"), ("bag", "boot")) == [
        "probe.callable 'not_there:ask': its outputs are taken in the order of the run's, 0 as 'bag', 1 as 'boot'"
    ]


def test_a_model_of_more_classes_than_the_run_is_said_to_be_restricted(checkpoint: Path) -> None:
    assert remarks(checkpoint, ("bag",)) == [
        f"model {str(checkpoint)!r} has 2 classes, its answers are restricted to the run's 1; "
        "fine-tuned it has these alone"
    ]
