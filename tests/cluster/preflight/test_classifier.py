"""What is wrong with a classifier is said at plan, before any weights are read."""

from pathlib import Path

from tint_runs import tint_run, write_images
from tiny_classifiers import save_checkpoint

from cluster.preflight.classifier import check_classifier
from engine.errors import ModelError
from engine.plan.plan import make_plan
from engine.runfile.fields import ModelConfig
from engine.runfile.probe import ProbeConfig


def test_the_classifier_and_those_it_is_compared_with_are_checked(tmp_path: Path) -> None:
    run = tint_run(write_images(tmp_path / "images"))
    names = {"good": ["coat", "boot"], "unnamed": ["LABEL_0", "LABEL_1"], "other": ["coat", "hat"], "one": ["boot"]}
    model = {key: ModelConfig(name=str(save_checkpoint(tmp_path / key, "vit", names[key]))) for key in names}
    for folder in names:
        (tmp_path / folder / "model.safetensors").write_bytes(b"not read")
    (tmp_path / "my.onnx").touch()
    model["onnx"] = ModelConfig(name=str(tmp_path / "my.onnx"))
    probe = ProbeConfig(model=model["good"], transfer=(model["unnamed"], model["other"], model["one"], model["onnx"]))
    run = run.model_copy(update={"probe": probe, "offline": True})
    unnamed, other, one, onnx = check_classifier(run, make_plan(run))
    assert isinstance(unnamed, str)
    assert (
        "names none of its classes: its outputs are taken in the order of the run's, 0 as 'boot', 1 as 'coat'"
        in unnamed
    )
    assert isinstance(other, ModelError)
    assert str(other).startswith("probe.transfer.1: model")
    assert "does not know 'boot', it knows 'coat', 'hat'" in str(other)
    assert isinstance(one, str)
    assert "a sigmoid: it is taken as the probability of 'boot', as its id2label says" in one
    assert isinstance(onnx, ModelError)
    assert "is a file of ONNX, wanted a folder" in str(onnx)
    assert "set probe.callable: my_model:classify" in str(onnx)
