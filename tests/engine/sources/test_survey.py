"""A look at some images of a source tells the range of their values, and names those of one colour."""

from pathlib import Path

import numpy as np
import pytest
from odd_pictures import encoded, photo, png_16
from PIL import Image

from engine.runfile.data import FolderSource, TableSource
from engine.sources import open_source
from engine.sources import rows as rows_module
from engine.sources import survey as survey_module
from engine.sources.survey import survey_source


def folder(root: Path, **files: bytes) -> FolderSource:
    (root / "boot").mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (root / "boot" / f"{name}.png").write_bytes(data)
    return FolderSource(path=str(root))


def deep(largest: int, seed: int = 0) -> bytes:
    grey = np.asarray(photo(seed=seed).convert("L"), float)
    return png_16(np.round(grey / grey.max() * largest).astype(np.uint16))


def test_the_largest_value_of_many_images_decides(tmp_path: Path) -> None:
    config = folder(tmp_path, a=deep(300), b=deep(3900), c=deep(900), d=encoded(photo(), "JPEG"), e=b"no image")
    found = survey_source(open_source(config))
    assert (found.value_range, found.num_images, found.plain) == ((0, 4095), 5, [])


def test_8_bits_have_no_range_and_one_colour_is_named(tmp_path: Path) -> None:
    blank = encoded(Image.new("RGB", (20, 20), "white"), "JPEG")
    found = survey_source(open_source(folder(tmp_path, a=encoded(photo(), "PNG"), b=blank)))
    assert (found.value_range, list(found.spans), found.plain) == (None, [], ["boot/b.png"])


def test_integers_and_floats_together_have_no_range(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    found = survey_source(open_source(folder(tmp_path, a=deep(4095), b=encoded(Image.fromarray(values), "TIFF"))))
    assert found.value_range is None
    assert len(found.spans) == 2


def test_the_same_images_are_looked_at_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "NUM_LOOKED_AT", 5)
    config = folder(tmp_path, **{f"n{number}": deep(1000 + 150 * number, number) for number in range(20)})
    source = open_source(config)
    found = survey_source(source)
    items = sorted(source.items(), key=lambda item: item.key, reverse=True)
    monkeypatch.setattr(type(source), "items", lambda _: iter(items))
    assert survey_source(source) == found
    assert found.num_images == 5


def test_of_a_long_table_the_beginning_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "NUM_LISTED", 3)
    monkeypatch.setattr(rows_module, "ROWS_AT_ONCE", 2)
    folder(tmp_path, a=deep(3900), b=deep(900), c=deep(1000), d=deep(60000))
    lines = ["path,label", *(f"boot/{name}.png,boot" for name in "abcd"), "e.png,"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    # The last line, which has no label, is not read.
    found = survey_source(open_source(TableSource(path=f"{tmp_path}/a.csv")))
    assert (found.value_range, found.num_images) == ((0, 4095), 3)
