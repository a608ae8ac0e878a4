"""The classifier in training: a sigmoid trained as a choice of two, grey images, half precision."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_classifiers import save_architecture, save_checkpoint
from torch import nn

from actors.classifier.classifier import Classifier
from actors.classifier.heads import select_rows
from actors.finetune import model as finetune
from actors.finetune.model import BaseClassifier, adapted, merged, prepare_precision
from engine.errors import ModelError
from engine.runfile.fields import ModelConfig
from engine.runfile.probe import ProbeConfig
from engine.runfile.reinforce import LoraSettings
from engine.storage.storage import Storage

CLASSES = ("cat", "dog")


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_a_sigmoid_is_trained_with_its_own_loss_and_saved_with_two_outputs(
    images: torch.Tensor, tmp_path: Path
) -> None:
    folder = save_checkpoint(tmp_path / "sigmoid", "vit", ["cat"])
    base = BaseClassifier(ModelConfig(name=str(folder)), CLASSES, offline=True)
    model, labels = base.model().eval(), torch.tensor([0, 1, 1, 0, 1, 0])
    from transformers import AutoModelForImageClassification

    with torch.no_grad():
        logits = AutoModelForImageClassification.from_pretrained(folder).eval()(images).logits[:, 0]
    own = nn.functional.binary_cross_entropy_with_logits(logits, (labels == 0).float())
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(model(images).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(float(own), abs=1e-6)
    assert losses[-1] < losses[0] - 0.1
    base.save(model.state_dict(), Storage(str(tmp_path)), "trained")
    config = ProbeConfig(model=ModelConfig(name=str(tmp_path / "trained")))
    for classes in (CLASSES, CLASSES[::-1]):
        network = Classifier(config, classes, offline=True).network
        order = [CLASSES.index(name) for name in classes]
        with torch.no_grad():
            torch.testing.assert_close(network.logits(images), model(images).logits[:, order])


@pytest.mark.parametrize("name", ["deit_teacher", "vit"])
def test_both_heads_are_trained_beside_the_adapters(name: str, tmp_path: Path) -> None:
    folder = save_architecture(tmp_path / "model", name, 16)
    base = BaseClassifier(ModelConfig(name=str(folder)), [f"class {index}" for index in range(16)], offline=True)
    model, images = adapted(base, LoraSettings(rank=2)).eval(), torch.randn(2, 3, 64, 64)
    trained = {key for key, value in model.named_parameters() if value.requires_grad and "lora_" not in key}
    assert trained == {f"model.{head}.{kind}" for head in base.heads for kind in ("weight", "bias")}
    # 16 rows have the hidden layers too, and adapters.
    assert sum("lora_A" in key for key, _ in model.named_parameters()) >= 6
    with torch.no_grad():
        assert torch.equal(model(pixel_values=images).logits, base.model().eval()(images).logits)
    plain = base.model()
    plain.load_state_dict(merged(model.state_dict(), base, LoraSettings(rank=2)))


def test_a_model_that_answers_otherwise_once_it_is_cut_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_checkpoint(tmp_path / "model", "vit", ["a", "b", "c"])
    # As all layers with a row for each class were cut once.
    monkeypatch.setattr(finetune, "select_rows", lambda model, heads, rows: select_rows(model, heads, rows[::-1]))
    with pytest.raises(ModelError, match=r"answers otherwise once its head \['classifier'\] is cut to the run's 2"):
        BaseClassifier(ModelConfig(name=str(folder)), ("c", "a"), offline=True)


def test_what_a_buffer_brings_is_cast_and_the_buffer_kept(tmp_path: Path) -> None:
    base = BaseClassifier(
        ModelConfig(name=str(save_architecture(tmp_path / "model", "swinv2", 16))), ("class 3", "class 5"), offline=True
    )
    exact, half = base.model().eval(), base.model().eval()
    for parameter in half.parameters():  # as DeepSpeed does
        parameter.data = parameter.data.to(torch.bfloat16)
    prepare_precision(half, "bfloat16")
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    found = half(pixel_values=images.to(torch.bfloat16)).logits
    found.float().sum().backward()
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact(images).logits, rtol=0.02, atol=0.02)
    gradients = [parameter.grad for name, parameter in half.named_parameters() if "continuous_position" in name]
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)
    kept = dict(exact.named_buffers())
    tables = [name for name, buffer in half.named_buffers() if buffer.is_floating_point()]
    assert len(tables) == 2
    assert all(torch.equal(half.get_buffer(name), kept[name]) for name in tables)


def test_a_model_of_one_channel_is_probed_and_trained(tmp_path: Path) -> None:
    from PIL import Image
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        num_channels=1, id2label={0: "dog", 1: "cat"}, label2id={"dog": 0, "cat": 1},
    )  # fmt: skip
    torch.manual_seed(0)
    whole = ViTForImageClassification(config).eval()
    whole.save_pretrained(tmp_path)
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.5], image_std=[0.5])
    processor.save_pretrained(tmp_path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    picture.save(tmp_path / "picture.png")
    image = (tmp_path / "picture.png").read_bytes()
    pixels = processor(images=picture.convert("L"), return_tensors="pt")["pixel_values"].float()
    with torch.no_grad():
        wanted = whole(pixels).logits[:, [1, 0]]
        base = BaseClassifier(ModelConfig(name=str(tmp_path)), CLASSES, offline=True)
        inputs = base.preprocessing.inputs(base.preprocessing.pixels(image)[None], torch.device("cpu"))
        torch.testing.assert_close(base.model().eval()(inputs).logits, wanted, rtol=0, atol=1e-5)
    found = Classifier(ProbeConfig(model=ModelConfig(name=str(tmp_path))), CLASSES, offline=True).predict([image])
    assert found == pytest.approx(wanted.softmax(1).numpy(), abs=1e-5)


def test_rates_of_layers_rise_from_the_first_to_the_head_and_every_parameter_has_one(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "vit", "vit", list(CLASSES))
    model = BaseClassifier(ModelConfig(name=str(folder)), CLASSES, offline=True).model()
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = finetune.parameter_groups(model, 0.1, 0.25)
    rates = {names[parameter]: group["rate"] for group in groups for parameter in group["params"]}
    assert set(rates) == set(names.values())
    ordered = list(dict.fromkeys(rates[name] for name in names.values()))
    assert ordered == sorted(ordered) == pytest.approx([0.25 ** (1 - step / 5) for step in range(6)])
    assert rates["classifier.weight"] == 1
    for group in groups:
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] > 0}
    assert len(finetune.parameter_groups(model, 0.1)) == 2
