import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import (
    jpeg,
    save_blip,
    save_chat_captioner,
    save_clip,
    save_encoder_decoder,
    save_florence,
    save_qwen_vl,
)

from actors.captioner.captioner import Captioner
from actors.models.device import fix_threads
from engine.errors import ModelError, RunFileError
from engine.runfile.captioner import CaptionerConfig
from engine.runfile.fields import ModelConfig
from engine.sample import Rejection, Sample

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)


def source(key: str, **changes: object) -> Sample:
    settings: dict[str, object] = {
        "key": key, "source_key": key, "role": "source", "image": jpeg(), "label": 0, "class_name": "sneaker",
        "split": "train",
    }  # fmt: skip
    return Sample(**{**settings, **changes})  # type: ignore[arg-type]  # a dictionary of its fields


def captioner(folder: Path, **changes: object) -> Captioner:
    settings = {"model": ModelConfig(name=str(folder)), "batch_size": 2, "max_new_tokens": 6, **changes}
    return Captioner(CaptionerConfig(**settings), CPU, name="captioner", offline=True)


@pytest.mark.parametrize("save", [save_blip, save_florence, save_encoder_decoder, save_chat_captioner, save_qwen_vl])
def test_every_family_captions_sources(save: Callable[[Path], Path], tmp_path: Path) -> None:
    model = captioner(save(tmp_path))
    samples = [source(f"s{index}", image=jpeg(seed=index, size=(32 + 8 * index, 32))) for index in range(3)]
    results = list(model(samples))
    assert [item.key for item in results] == ["s0", "s1", "s2"]
    for item in results:
        assert isinstance(item, Sample), item
        assert item.caption == " ".join(item.caption.split()) != ""
        assert "<" not in item.caption
        assert item.provenance["captioner"]["model"]["digest"]


def test_a_checkpoint_saved_with_torchvision_loads_without_it(tmp_path: Path) -> None:
    folder = save_blip(tmp_path)
    config = json.loads((folder / "processor_config.json").read_text())
    config["image_processor"]["image_processor_type"] = "BlipImageProcessor"
    (folder / "processor_config.json").write_text(json.dumps(config))
    assert list(captioner(folder)([source("s0")]))


def test_a_prefix_starts_the_caption(tmp_path: Path) -> None:
    (result,) = captioner(save_blip(tmp_path), prompt="a photo of")([source("s0")])
    assert isinstance(result, Sample)
    assert result.caption.startswith("a photo of")


def test_a_caption_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    model = captioner(save_encoder_decoder(tmp_path), batch_size=4)
    samples = [source(f"s{index}", image=jpeg(colour=(60 * index, 99, 9), seed=index)) for index in range(5)]
    assert [item for sample in samples for item in model([sample])] == list(model(samples))


def test_equal_images_are_captioned_once(tmp_path: Path) -> None:
    model = captioner(save_encoder_decoder(tmp_path), batch_size=2)
    same, other = jpeg(seed=1), jpeg(colour=(9, 99, 200), seed=2)
    images = (same, other, same, b"no image", b"no image")
    samples = [source(f"s{number}", image=image) for number, image in enumerate(images)]
    first, second, third, *broken = model(samples)
    assert model.calls == {"captions": 2}
    assert (first.key, third.key, first.caption) == ("s0", "s2", third.caption)
    assert second.key == "s1"
    assert [(item.key, item.source_key, item.reason) for item in broken] == [
        ("s3", "s3", "unreadable_image"),
        ("s4", "s4", "unreadable_image"),
    ]
    list(model([source("s1", image=other)]))
    assert model.calls == {"captions": 3}


def test_captions_that_came_along_are_kept_unless_told_otherwise(tmp_path: Path) -> None:
    folder = save_encoder_decoder(tmp_path)
    given = source("s0", caption="a shoe")
    assert list(captioner(folder)([given])) == [given]
    (result,) = captioner(folder, overwrite=True)([given])
    assert isinstance(result, Sample)
    assert result.caption != "a shoe"


def test_an_unreadable_image_is_a_rejection(tmp_path: Path) -> None:
    broken, good = captioner(save_encoder_decoder(tmp_path))([source("s0", image=b"no image"), source("s1")])
    assert isinstance(broken, Rejection)
    assert (broken.key, broken.stage, broken.reason) == ("s0", "captioner", "unreadable_image")
    assert isinstance(good, Sample)


def test_no_words_are_a_rejection(tmp_path: Path) -> None:
    folder = save_encoder_decoder(tmp_path)
    config = json.loads((folder / "generation_config.json").read_text())
    config["suppress_tokens"] = list(range(3, 259))
    (folder / "generation_config.json").write_text(json.dumps(config))
    (result,) = captioner(folder)([source("s0")])
    assert isinstance(result, Rejection)
    assert result.reason == "empty_caption"


def test_a_model_that_writes_no_captions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load model"):
        captioner(save_clip(tmp_path))


def test_a_florence_task_without_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match="<MORE_DETAILED_CAPTION>"):
        captioner(save_florence(tmp_path), prompt="<OD>")


def test_florence_captions_alike_without_rules_for_boxes(tmp_path: Path) -> None:
    folder = save_florence(tmp_path)
    config = json.loads((folder / "processor_config.json").read_text())
    assert config.pop("post_processor_config") == {"pure_text": {}}
    wanted = list(captioner(folder)([source("s0")]))
    (folder / "processor_config.json").write_text(json.dumps(config))
    assert [item.caption for item in captioner(folder)([source("s0")])] == [item.caption for item in wanted]
