"""Which source a path on the command line is, and which attributes its images have."""

import os
from pathlib import Path

from pydantic import ValidationError

from engine.errors import SourceError
from engine.runfile.data import AnySource, FolderSource, TableSource, TarSource, WardrobeSource
from engine.sources.huggingface import guess_columns
from engine.sources.labels import repeated_fields
from engine.sources.rows import COLUMNS, table_columns
from engine.sources.tar import PACKED, TAR, first_records, is_own_record, own_attributes

WARDROBE_SPLITS = ("sources", "heldout")
RECORDS_READ = 500
# Fields of a tar's records that are no attributes.
FIXED = ("label", "caption", "group", "key", "__key__")


def parse_source(text: str) -> AnySource:
    """Return the source that a text names, with the attributes that its images have; SourceError if there is none."""
    if text.startswith("wardrobe:"):
        return _wardrobe(text)
    path = Path(text).expanduser()
    if not path.exists():
        raise SourceError(f"{text}: there is no such file or folder; or use wardrobe:heldout")
    path = path.resolve()
    if path.is_file():
        match path.suffix.lower():
            case ".csv" | ".tsv" | ".jsonl":
                columns = table_columns(str(path))
                return TableSource(path=str(path), attributes=tuple(name for name in columns if name not in COLUMNS))
            case ".tar":
                return _tars(path)
            case suffix:
                hint = ": unpack it to .tar" if PACKED.search(path.name) else ""
                what = suffix or "without ending"
                raise SourceError(f"{text}: a file must be a .csv, .tsv, .jsonl or .tar, this is {what}{hint}")
    if (path / "dataset_dict.json").is_file():
        splits = sorted(part.name for part in path.iterdir() if part.is_dir())
        named = ", ".join(os.path.join(text, name) for name in splits)
        raise SourceError(f"{text} holds several splits: name the folder of one of them ({named})")
    if (path / "state.json").is_file() or (path / "dataset_info.json").is_file():
        return guess_columns(str(path))
    if (path / "run.yaml").is_file() and (path / "shards").is_dir():
        raise SourceError(f"{text} is a run: its images are in {os.path.join(text, 'shards')}, name that folder")
    if any(_is_tar(name) for name in os.listdir(path)):
        return _tars(path)
    return FolderSource(path=str(path))


def _is_tar(name: str) -> bool:
    return not name.startswith(".") and (name.lower().endswith(TAR) or PACKED.search(name) is not None)


def _tars(path: Path) -> TarSource:
    records = first_records(str(path), RECORDS_READ)
    if records and all(map(is_own_record, records)):
        return TarSource(path=str(path), attributes=own_attributes(records))
    attributes = tuple(name for name in repeated_fields(records) if name not in FIXED)
    return TarSource(path=str(path), attributes=attributes)


def _wardrobe(text: str) -> WardrobeSource:
    _, split, *rest = text.split(":")
    names = ("correlation", "count")
    try:
        values = dict(zip(names, (float(value) for value in rest), strict=False))
        if split not in WARDROBE_SPLITS or len(rest) > len(names):
            raise ValueError(f"splits are {', '.join(WARDROBE_SPLITS)}")
        return WardrobeSource.model_validate({"split": split, **values})
    except (ValueError, ValidationError) as error:
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise SourceError(
            f"{text}: {problem}; right is wardrobe:heldout, wardrobe:heldout:0.95 or wardrobe:heldout:0.95:2000"
        ) from error
