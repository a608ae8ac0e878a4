"""The head alone is cut, in whatever architecture, and however many other layers have its number of rows."""

from pathlib import Path

import pytest
import torch
from tiny_classifiers import ARCHITECTURES, save_architecture

from actors.classifier.classifier import Classifier
from actors.classifier.heads import Head, num_rows
from actors.finetune.model import BaseClassifier
from engine.runfile.fields import ModelConfig
from engine.runfile.probe import ProbeConfig
from engine.storage.storage import Storage

TWO_HEADS = {"deit_teacher", "levit_teacher", "swiftformer"}
RUN = ("class 7", "class 0", "class 12")


@pytest.fixture(params=sorted(ARCHITECTURES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_a_cut_model_answers_as_the_whole_one_and_is_loaded_so(name: str, images: torch.Tensor, tmp_path: Path) -> None:
    whole = answers(save_architecture(tmp_path / "whole", name, 16), images)
    base = BaseClassifier(ModelConfig(name=str(tmp_path / "whole")), RUN, offline=True)
    model = base.model().eval()
    decoys = [layer for layer in model.modules() if isinstance(layer, Head) and num_rows(layer) == 16]
    assert decoys
    assert len(base.heads) == (2 if name in TWO_HEADS else 1)
    with torch.no_grad():
        torch.testing.assert_close(model(images).logits, whole[:, [7, 0, 12]], rtol=1e-5, atol=1e-5)
    base.save(model.state_dict(), Storage(str(tmp_path)), "cut")
    torch.testing.assert_close(answers(tmp_path / "cut", images), whole[:, [7, 0, 12]], rtol=1e-5, atol=1e-5)


def test_a_sigmoid_is_a_choice_of_two_in_probe_and_training(name: str, images: torch.Tensor, tmp_path: Path) -> None:
    logits = answers(save_architecture(tmp_path / "sigmoid", name, 1), images)[:, 0]
    config, zeros = ModelConfig(name=str(tmp_path / "sigmoid")), torch.zeros(4)
    # Named in id2label: whichever place the class has in the run.
    for classes in (("other", "class 0"), ("class 0", "other")):
        place = classes.index("class 0")
        wanted = torch.stack([zeros, logits] if place else [logits, zeros], 1)
        network = Classifier(ProbeConfig(model=config), classes, offline=True).network
        with torch.no_grad():
            torch.testing.assert_close(network.logits(images), wanted, rtol=0, atol=1e-6)
        torch.testing.assert_close(wanted.softmax(1)[:, place], logits.sigmoid(), rtol=0, atol=1e-6)
    base = BaseClassifier(config, classes, offline=True)
    with torch.no_grad():
        torch.testing.assert_close(base.model().eval()(images).logits, wanted, rtol=0, atol=1e-6)
    base.save(base.model().state_dict(), Storage(str(tmp_path)), "two")
    torch.testing.assert_close(answers(tmp_path / "two", images), wanted, rtol=0, atol=1e-6)


def answers(folder: Path, images: torch.Tensor) -> torch.Tensor:
    from transformers import AutoModelForImageClassification

    with torch.no_grad():
        logits: torch.Tensor = AutoModelForImageClassification.from_pretrained(folder).eval()(images).logits
    return logits
