from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_detectors import save_grounding_dino, save_sam
from tiny_models import save_clipseg

from actors.models.device import fix_threads
from actors.regions.finder import RegionFinder
from actors.regions.make import make_finder
from engine.errors import ModelError
from engine.runfile.fields import ModelConfig

CPU = torch.device("cpu")
PICTURES = [np.random.default_rng(seed).integers(0, 256, (40, 56, 3), dtype=np.uint8) for seed in range(3)]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelConfig, ModelConfig]:
    folder = tmp_path_factory.mktemp("models")
    return (
        ModelConfig(name=str(save_grounding_dino(folder / "boxes"))),
        ModelConfig(name=str(save_sam(folder / "sam"))),
    )


def finder(models: tuple[ModelConfig, ModelConfig]) -> RegionFinder:
    boxes, masks = models
    return make_finder(masks, boxes, CPU, batch_size=2, offline=True)


def test_where_no_box_is_sure_nothing_is_found(
    models: tuple[ModelConfig, ModelConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.regions.boxes.LEAST_BOX", 1.0)
    for region in finder(models)(PICTURES, ["ball", "lamp", "ball"]):
        assert region.shape == (40, 56)
        assert not region.any()


def test_the_pixels_of_all_boxes_are_the_region(
    models: tuple[ModelConfig, ModelConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.regions.boxes.LEAST_BOX", 0.0)
    find = finder(models)
    together = find(PICTURES, ["ball", "lamp", "ball"])
    assert all(region.shape == (40, 56) and set(region.unique().tolist()) <= {0.0, 1.0} for region in together)
    assert any(region.any() for region in together)
    (alone,) = find(PICTURES[1:2], ["lamp"])
    assert torch.equal(alone, together[1])
    assert "box_model" in find.provenance


def test_a_model_of_another_kind_is_refused(models: tuple[ModelConfig, ModelConfig], tmp_path: Path) -> None:
    boxes, _ = models
    with pytest.raises(ModelError, match="it is a model of another kind"):
        make_finder(ModelConfig(name=str(save_clipseg(tmp_path / "seg"))), boxes, CPU, batch_size=2, offline=True)
