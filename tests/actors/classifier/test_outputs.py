"""How many classes a checkpoint has is read from its config.json, and said where the run has fewer."""

import json
from pathlib import Path

import pytest
from tiny_classifiers import save_checkpoint

from actors.classifier.outputs import num_outputs, restriction
from engine.errors import ModelError
from engine.runfile.fields import ModelConfig


def test_a_model_of_more_classes_than_the_run_is_said_to_be_restricted(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model", "resnet", ["bag", "boot", "coat", "shirt"])
    model = ModelConfig(name=str(folder))
    assert num_outputs(model) == 4
    assert restriction(model, 3) == (
        f"model {str(folder)!r} has 4 classes, its answers are restricted to the run's 3; fine-tuned it has these alone"
    )
    assert restriction(model, 4) is None
    assert restriction(None, 1) is None
    with pytest.raises(ModelError):
        num_outputs(ModelConfig(name="owner/not-on-this-disk"), offline=True)


@pytest.mark.parametrize(
    ("config", "number"), [({"num_classes": 1000}, 1000), ({"id2label": None, "num_labels": 7}, 7), ({}, None)]
)
def test_a_model_without_names_says_its_number_in_another_field(
    tmp_path: Path, config: dict[str, object], number: int | None
) -> None:
    folder = save_checkpoint(tmp_path / "model", "resnet", ["bag", "boot"])
    (folder / "config.json").write_text(json.dumps(config))
    assert num_outputs(ModelConfig(name=str(folder))) == number
