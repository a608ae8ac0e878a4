"""The benchmark of large classifiers, to its end at tiny size, and the architectures that it is about."""

from pathlib import Path

import pytest
import torch

from engine.figures.figures import read_figures
from tests.benchmarks.large import CASES, COMMAND, MODELS, classifier, main


@pytest.mark.parametrize(("name", "count"), [("vit_l", 304_326_632), ("convnext_l", 197_767_336)])
def test_the_architectures_have_the_published_number_of_parameters(name: str, count: int) -> None:
    with torch.device("meta"):
        model = classifier(name, "full", num_labels=1000)
        tiny = classifier(name, "tiny", num_labels=1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert [key for key, _ in tiny.named_parameters()] == [key for key, _ in model.named_parameters()]


@pytest.mark.slow
def test_every_case_runs_at_tiny_size_and_writes_its_figures(tmp_path: Path) -> None:
    main(["--size", "tiny", "--steps", "2", "--threads", "1", "--out", str(tmp_path)])
    figures, _ = read_figures(COMMAND, tmp_path)
    values = {figure.name: figure.value for figure in figures}
    for subject in (f"{name}.{case}" for name in MODELS for case in CASES):
        # In GiB: Python with torch alone is 0.3, these models weigh nothing.
        assert 0.3 < values[f"large.peak_memory.{subject}"] < 2
        assert values[f"large.images.{subject}"] > 0
    # A frozen weight has no master copy and no moments.
    assert values["large.checkpoint.vit_l.head"] < values["large.checkpoint.vit_l.layers"] / 2
