"""The head's inputs of every architecture, and a linear head put into its weights."""

from pathlib import Path

import pytest
import torch
from tiny_classifiers import ARCHITECTURES, save_architecture

from actors.finetune.arms.features import check_head, check_replaceable, head_inputs, head_weights, linear_head
from actors.finetune.arms.logistic import LinearHead
from actors.finetune.model import BaseClassifier
from engine.errors import ModelError
from engine.runfile.fields import ModelConfig

NUM_CLASSES = 16
TWO_HEADS = {"deit_teacher", "levit_teacher", "swiftformer"}


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_a_fitted_head_answers_in_the_model_as_on_its_features(name: str, tmp_path: Path) -> None:
    folder = save_architecture(tmp_path, name, NUM_CLASSES)
    base = BaseClassifier(
        ModelConfig(name=str(folder)), [f"class {index}" for index in range(NUM_CLASSES)], offline=True
    )
    model, inputs = base.model().eval(), base.trial_inputs()
    check_head(model, base.heads, inputs)
    before = linear_head(model, base.heads)
    torch.manual_seed(1)
    head = LinearHead(weight=torch.randn_like(before.weight), bias=torch.randn(NUM_CLASSES))
    features, _ = head_inputs(model, base.heads, inputs)
    fresh = base.model()
    fresh.load_state_dict({**fresh.state_dict(), **head_weights(model, base.heads, head)})
    with torch.no_grad():
        logits = fresh.eval()(pixel_values=inputs).logits
    torch.testing.assert_close(logits, head(features), atol=1e-2, rtol=1e-2)


def test_prototypes_replace_one_linear_layer_alone(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({"one": torch.nn.Linear(2, 3), "two": torch.nn.Linear(2, 3)})
    check_replaceable(model, ["one"])
    with pytest.raises(ModelError, match=r"ends in \['one', 'two'\]: leave the arms with `fit: dpe` out"):
        check_replaceable(model, ["one", "two"])


def test_a_head_without_a_bias_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the head one of this ModuleDict is no linear layer with a bias"):
        linear_head(torch.nn.ModuleDict({"one": torch.nn.Linear(2, 3, bias=False)}), ["one"])
