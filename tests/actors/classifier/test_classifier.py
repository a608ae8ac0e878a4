"""Any checkpoint or function answers in the run's classes, or says why it cannot."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from tiny_classifiers import save_checkpoint

from actors.classifier.classifier import Classifier, classifier_digest
from actors.finetune.model import BaseClassifier
from actors.images.codec import UnreadableImageError, decode_rgb
from engine.errors import ModelError
from engine.runfile.fields import ModelConfig
from engine.runfile.probe import ProbeConfig

CLASSES = ("ankle boot", "bag", "t-shirt")


@pytest.fixture(params=["resnet", "vit"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / request.param, request.param, ["Bag", "T_Shirt", "Ankle_Boot"])


def test_probabilities_come_in_the_order_of_the_runs_classes(checkpoint: Path) -> None:
    from transformers import AutoModelForImageClassification

    images = [_picture(seed) for seed in range(5)]
    classifier = Classifier(_config(checkpoint), CLASSES, offline=True)
    got = classifier.predict(images)
    assert got.dtype == np.float32
    assert got.sum(axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    model = AutoModelForImageClassification.from_pretrained(checkpoint).eval()
    pixels = np.stack([np.asarray(decode_rgb(data)) for data in images]).transpose(0, 3, 1, 2) / 255
    with torch.inference_mode():
        logits = model(torch.tensor((pixels - 0.5) / 0.5, dtype=torch.float32)).logits
    expected = logits.softmax(1).numpy()[:, [2, 0, 1]]
    assert got == pytest.approx(expected, abs=1e-4)


def test_an_image_gets_the_same_bits_whatever_its_neighbours(checkpoint: Path) -> None:
    images = [_picture(seed) for seed in range(6)]
    classifier = Classifier(_config(checkpoint), CLASSES, offline=True)
    together = classifier.predict(images)
    alone = np.concatenate([classifier.predict([image]) for image in images])
    assert together.tobytes() == alone.tobytes()


def test_the_probe_sees_of_a_large_photograph_what_fine_tuning_sees(checkpoint: Path) -> None:
    patient = BaseClassifier(ModelConfig(name=str(checkpoint)), CLASSES, offline=True)
    photograph = Image.fromarray(data.astronaut())
    buffer = io.BytesIO()
    photograph.save(buffer, "JPEG", quality=95)
    pixels = patient.preprocessing.pixels(buffer.getvalue())
    shrunk = patient.preprocessing.processor(
        images=photograph, return_tensors="np", do_rescale=False, do_normalize=False
    )
    assert not np.array_equal(pixels, shrunk["pixel_values"][0])
    with torch.inference_mode():
        inputs = patient.preprocessing.inputs(np.stack([pixels] * 4), torch.device("cpu"))
        logits = patient.model().eval()(pixel_values=inputs).logits
    found = Classifier(_config(checkpoint), CLASSES, offline=True).predict([buffer.getvalue()])
    assert found == pytest.approx(logits.softmax(1).numpy()[:1], abs=1e-6)


def test_the_network_is_the_door_to_features_and_gradients(checkpoint: Path) -> None:
    images = [_picture(seed) for seed in range(4)]
    classifier = Classifier(_config(checkpoint), CLASSES, offline=True)
    network = classifier.network
    inputs = network.inputs([network.read(image) for image in images]).requires_grad_()
    logits = network.logits(inputs)
    assert logits.softmax(1).detach().numpy() == pytest.approx(classifier.predict(images), abs=1e-5)
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), inputs)
    # A small step along it moves the class that it was taken of, and as far as it says.
    step = 1e-3 * gradient / gradient.norm()
    moved = (network.logits(inputs + step)[:, 1].sum() - logits[:, 1].sum()).detach()
    assert float(moved) == pytest.approx(float((gradient * step).sum()), rel=0.1)
    head = network.module.get_submodule(network.heads[0])
    again = head(network.features(inputs))[:, network.columns]
    assert torch.allclose(again, logits, atol=1e-5)


def test_a_black_box_has_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_box.py").write_text("def ask(images): return [[1.0, 0.0, 0.0]] * len(images)")
    monkeypatch.syspath_prepend(str(tmp_path))
    classifier = Classifier(ProbeConfig(callable="my_box:ask"), CLASSES)
    with pytest.raises(ModelError, match=r"'my_box:ask' is a black box: it has no layers, features or gradients"):
        _ = classifier.network


def test_the_digest_of_a_function_follows_its_files_and_its_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = _function(monkeypatch, tmp_path, "return 1")
    weights = tmp_path / "weights"
    (weights / "deep").mkdir(parents=True)
    (tmp_path / "model.onnx").write_bytes(b"one")
    (weights / "deep" / "a.bin").write_bytes(b"two")

    def digest(**changes: object) -> str:
        return classifier_digest(config.model_copy(update=changes))

    files = {"files": (str(tmp_path / "model.onnx"), str(weights))}
    found = [digest(), digest(version="b"), digest(version=2), digest(**files)]
    (weights / "deep" / "a.bin").write_bytes(b"TWO")
    found.append(digest(**files))
    (tmp_path / "model.onnx").write_bytes(b"ONE")
    found.append(digest(**files))
    assert len(set(found)) == len(found) == 6
    assert digest(**files) == found[-1]
    with pytest.raises(ModelError, match=r"probe.files: cannot read .*nowhere.onnx: No such file or directory"):
        digest(files=("nowhere.onnx",))


def test_an_object_that_is_called_is_known_by_the_source_of_its_module(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "user_object.py"
    source.write_text("class Box:\n    def __call__(self, images):\n        return 1\nask = Box()\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = ProbeConfig(callable="user_object:ask")
    before = classifier_digest(config)
    source.write_text(source.read_text().replace("1", "2"))
    assert classifier_digest(config) != before


def test_no_image_gives_no_row(checkpoint: Path) -> None:
    assert Classifier(_config(checkpoint), CLASSES).predict([]).shape == (0, 3)


def test_a_classifier_of_more_classes_is_asked_about_the_runs_alone(tmp_path: Path) -> None:
    names = ["tench, Tinca tinca", "bag", "ankle boot", "t-shirt, tee"]
    folder = save_checkpoint(tmp_path / "model", "resnet", names)
    got = Classifier(_config(folder), CLASSES).predict([_picture(0)])
    assert got.shape == (1, 3)
    assert got.sum() == pytest.approx(1, abs=1e-5)


def test_missing_classes_are_named(checkpoint: Path) -> None:
    with pytest.raises(ModelError, match=r"does not know 'coat', it knows 'Bag', 'T_Shirt', 'Ankle_Boot'"):
        Classifier(_config(checkpoint), (*CLASSES, "coat"))


def test_a_function_is_a_classifier(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = _function(monkeypatch, tmp_path, "return [[0.2, 0.3, 0.5] for image in images]")
    got = Classifier(config, CLASSES).predict([_picture(0)] * 5)
    assert got == pytest.approx(np.tile(np.array([0.2, 0.3, 0.5], np.float32), (5, 1)))


def test_a_function_gets_rgb_images_of_pil(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    body = "return [[1.0, 0, 0] if (i.mode, i.size) == ('RGB', (32, 32)) else [0, 1.0, 0] for i in images]"
    assert Classifier(_function(monkeypatch, tmp_path, body), CLASSES).predict([_picture(0)])[0, 0] == 1


def test_a_function_gets_the_names_of_the_classes_where_it_takes_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "my_names.py").write_text(
        "def by_keyword(images, *, classes): return [[float(name == 'bag') for name in classes]] * len(images)\n"
        "class Model:\n    def __call__(self, images, classes=()): return by_keyword(images, classes=classes)\n"
        "model = Model()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for target in ("my_names:by_keyword", "my_names:model"):
        got = Classifier(ProbeConfig(callable=target), CLASSES).predict([_picture(0)])
        assert got.tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return [[0.5, 0.5] for image in images]",
            r"shape \(4, 2\), wanted \(4, 3\): .* in the order 'ankle boot', 'bag', 't-shirt'",
        ),
        ("return [[float('nan')] * 3 for image in images]", "NaN or infinite"),
        ("return [[4.0, -1.0, 2.0] for image in images]", "apply softmax to logits"),
    ],
)
def test_a_function_that_returns_no_probabilities_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, message: str
) -> None:
    classifier = Classifier(_function(monkeypatch, tmp_path, body), CLASSES)
    with pytest.raises(ModelError, match=message):
        classifier.predict([_picture(0)])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_module_anywhere:f", "cannot import 'no_such_module_anywhere'"),
        (
            "actors.models.batching:f",
            r"has no function 'f', it has \['ahead', 'padded_batches', 'padded_tokens'",
        ),
    ],
)
def test_a_function_that_is_not_there_is_named(target: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Classifier(ProbeConfig(callable=target), CLASSES)


def test_the_digest_follows_weights_and_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = classifier_digest(_config(save_checkpoint(tmp_path / "a", "resnet", list(CLASSES), seed=0)))
    second = classifier_digest(_config(save_checkpoint(tmp_path / "b", "resnet", list(CLASSES), seed=1)))
    again = classifier_digest(_config(save_checkpoint(tmp_path / "c", "resnet", list(CLASSES), seed=0)))
    assert first == again != second
    config = _function(monkeypatch, tmp_path, "return 1")
    before = classifier_digest(config)
    module = str(config.callable).partition(":")[0]
    (tmp_path / f"{module}.py").write_text("def classify(images):\n    return 2\n")
    assert classifier_digest(config) != before


def test_a_processor_that_does_not_resize_is_named_where_images_differ(checkpoint: Path) -> None:
    settings = json.loads((checkpoint / "preprocessor_config.json").read_text())
    (checkpoint / "preprocessor_config.json").write_text(json.dumps({**settings, "do_resize": False}))
    classifier = Classifier(_config(checkpoint), CLASSES)
    assert classifier.predict([_picture(0)] * 2).shape == (2, 3)
    with pytest.raises(ModelError, match=r"\(3, 32, 32\) and \(3, 40, 50\): set do_resize: true"):
        classifier.predict([_picture(0), _picture(1, (40, 50))])


def test_an_image_that_cannot_be_read_is_reported(checkpoint: Path) -> None:
    with pytest.raises(UnreadableImageError):
        Classifier(_config(checkpoint), CLASSES).predict([b"no image"])


def _config(folder: Path) -> ProbeConfig:
    return ProbeConfig(model=ModelConfig(name=str(folder)), batch_size=4)


def _function(monkeypatch: pytest.MonkeyPatch, folder: Path, body: str) -> ProbeConfig:
    module = f"user_{folder.name}"
    (folder / f"{module}.py").write_text(f"def classify(images):\n    {body}\n")
    monkeypatch.syspath_prepend(folder)
    return ProbeConfig(callable=f"{module}:classify", batch_size=4)


def _picture(seed: int, size: tuple[int, int] = (32, 32)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
