"""Small sources of labelled images on disk: folders, tables, tars, saved datasets; and what listing them gives."""

import csv
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.errors import SourceError
from engine.runfile.data import AnySource, FolderSource, HuggingFaceSource, TarSource
from engine.sources import SourceItem, open_source


def encoded(format_: str = "JPEG", mode: str = "RGB", size: tuple[int, int] = (12, 8), **options: object) -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).convert(mode).save(buffer, format_, **options)
    return buffer.getvalue()


def write(path: Path, data: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded() if data is None else data)
    return path


def folder_of(root: Path, *names: str) -> FolderSource:
    for name in names:
        write(root / name)
    return FolderSource(path=str(root))


def table(path: Path, *rows: tuple[object, ...], delimiter: str = ",") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return str(path)


def write_tar(path: Path, *members: tuple[str, bytes], format_: int = tarfile.PAX_FORMAT) -> TarSource:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format_) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return TarSource(path=str(path))


def save_dataset(path: Path, **columns: object) -> HuggingFaceSource:
    """Save columns as a dataset, with an image a row where they have none; a pair is a feature and its values."""
    import datasets

    features, values = {}, {}
    for name, column in columns.items():
        feature, values[name] = column if isinstance(column, tuple) else (None, column)
        features[name] = feature or datasets.Dataset.from_dict({name: values[name]}).features[name]
    count = len(next(iter(values.values())))
    if "image" not in columns:
        features["image"] = datasets.Image()
        values["image"] = [{"bytes": encoded(), "path": None}] * count
    datasets.Dataset.from_dict(values, features=datasets.Features(features)).save_to_disk(str(path))
    return HuggingFaceSource(path=str(path))


def items_of(config: AnySource) -> list[SourceItem]:
    return sorted(open_source(config).items(), key=lambda item: item.key)


def remarks_of(config: AnySource) -> list[str]:
    from engine.sources import listing_remarks

    source = open_source(config)
    list(source.items())
    return listing_remarks(source)


def listing_error(config: AnySource) -> str:
    with pytest.raises(SourceError) as caught:
        items_of(config)
    return str(caught.value)
