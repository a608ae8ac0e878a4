"""The range of more than 8 bits is found before a run and kept in its run file, or refused with the field's name."""

import logging
from pathlib import Path

import numpy as np
import pytest
from odd_pictures import encoded, photo, png_16
from PIL import Image
from tiny_runs import tiny_run

from engine.errors import SourceError
from engine.plan.plan import make_plan
from engine.plan.value_ranges import with_value_range, with_value_ranges
from engine.runfile.data import DataConfig, FolderSource, WardrobeSource
from engine.runfile.load import dump_run_file, load_run_file
from engine.runfile.run import RunFile


def folder(root: Path, largest: float, kind: type = np.uint16) -> FolderSource:
    for number, name in enumerate(("boot", "coat")):
        (root / name).mkdir(parents=True)
        for seed in range(3):
            grey = np.asarray(photo(32, 24, 3 * number + seed).convert("L"), float)
            values = (grey / grey.max() * largest).astype(kind)
            data = png_16(values) if kind is np.uint16 else encoded(Image.fromarray(values), "TIFF")
            (root / name / f"{seed}.png").write_bytes(data)
    return FolderSource(path=str(root))


def run_of(tmp_path: Path, **sources: object) -> RunFile:
    run = tiny_run(tmp_path / "tiny")
    return run.model_copy(update={"data": DataConfig(**sources, splits=run.data.splits)})


def test_the_range_goes_into_the_run_file_and_its_digest(tmp_path: Path) -> None:
    run = run_of(tmp_path, train=folder(tmp_path / "a", 4000))
    found = with_value_ranges(run)
    assert found.data.train.value_range == (0, 4095)
    assert make_plan(found).digest != make_plan(run).digest
    (tmp_path / "run.yaml").write_text(dump_run_file(found))
    again = load_run_file(tmp_path / "run.yaml")
    assert again.data.train.value_range == (0, 4095)
    assert with_value_ranges(again) == again
    assert make_plan(again).digest == make_plan(found).digest


def test_8_bits_leave_a_run_as_it_is(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    assert with_value_ranges(run) is run
    wardrobe = WardrobeSource()
    assert with_value_range(wardrobe, "data.train") is wardrobe


def test_a_range_that_is_set_is_kept(tmp_path: Path) -> None:
    config = folder(tmp_path / "a", 4000).model_copy(update={"value_range": (0, 8191)})
    assert with_value_range(config, "data.train") is config


@pytest.mark.parametrize(
    ("largest", "kind", "said"),
    [
        (9, np.int32, "data.train: images hold values from 0 to 9, and nothing says which is white: set value_range"),
        (1.3, np.float32, "to 1.3, and nothing says which is white: set value_range of the source in the run file"),
    ],
)
def test_a_guess_is_refused_with_the_field(tmp_path: Path, largest: float, kind: type, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        with_value_ranges(run_of(tmp_path, train=folder(tmp_path / "a", largest, kind)))


def test_two_sources_on_different_scales_are_refused(tmp_path: Path) -> None:
    sources = {"train": folder(tmp_path / "a", 4000), "test": folder(tmp_path / "b", 60000)}
    with pytest.raises(SourceError, match=r"data.train \[0.0, 4095.0\], data.test \[0.0, 65535.0\]\): set value_range"):
        with_value_ranges(run_of(tmp_path, **sources))
    sources["test"] = folder(tmp_path / "c", 3000)
    assert with_value_ranges(run_of(tmp_path, **sources)).data.test.value_range == (0, 4095)


def test_images_of_one_colour_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = folder(tmp_path / "a", 4000)
    (tmp_path / "a/coat/blank.png").write_bytes(encoded(Image.new("RGB", (9, 9)), "PNG"))
    with caplog.at_level(logging.WARNING):
        with_value_range(config, "data.train")
    (said,) = caplog.messages
    assert said.startswith("data.train: 1 of 7 images looked at have one colour everywhere, so nothing can be seen in")
    assert said.endswith(": 'coat/blank.png'")
