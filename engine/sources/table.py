"""A CSV, TSV or JSONL with the columns path and label, and if wanted caption, group and attributes."""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple, TextIO

from engine.errors import SourceError
from engine.runfile.data import TableSource
from engine.sources.item import (
    ItemColumns,
    SourceItem,
    local_folder,
    make_keys,
    name_class,
    read_inside,
    sort_classes,
)
from engine.untrusted_json import loads_outside
from engine.wording import name_some

REQUIRED = ("path", "label")
COLUMNS = (*REQUIRED, "caption", "group")
ROWS_TRIED = 20
ROWS_AT_ONCE = 8_192

NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})


class _Rows(NamedTuple):
    """Some rows as columns, with the line of each; "" where the table lacks the column."""

    lines: Sequence[int]
    path: Sequence[str]
    label: Sequence[str]
    caption: Sequence[str]
    group: Sequence[str]
    attributes: Sequence[Mapping[str, str]]


class TableImages:
    """Read the images that a table names; paths are relative to the table's folder or `image_folder`."""

    def __init__(self, config: TableSource) -> None:
        self.config = config
        self.table = config.path
        if not os.path.isfile(self.table):
            raise SourceError(f"table not found: {self.table}; correct `path` (it is relative to the run file)")
        if not self.table.lower().endswith((".csv", ".tsv", ".jsonl")):
            raise SourceError(f"{self.table}: a table ends in .csv, .tsv or .jsonl")
        folder = config.image_folder
        self.root = local_folder(folder if folder is not None else os.path.dirname(self.table) or ".", "image_folder")
        self.names = config.classes
        self.attributes = config.attributes
        self._found: tuple[str, ...] | None = config.classes or None

    @property
    def classes(self) -> tuple[str, ...]:
        """Return `classes` of the configuration, else every label that occurs."""
        if self._found is None:
            # A row without a label is refused where items are listed.
            self._found = sort_classes({label for rows in self._rows() for label in rows.label if label})
        return self._found

    def items(self) -> Iterator[SourceItem]:
        """Yield one item a row; raise SourceError for an unknown label, a class without rows, no image found."""
        labels = {name: label for label, name in enumerate(self.classes)}
        for found in self.columns():
            names = [field.name for field in fields(found)]
            for values in zip(*(getattr(found, name) for name in names), strict=True):
                item = dict(zip(names, values, strict=True))
                yield SourceItem(**item, label=labels[item["class_name"]])

    def columns(self) -> Iterator[ItemColumns]:
        """Yield the items as columns, in one pass over the table."""
        class_of: dict[str, str] = {}
        first: dict[str, bool] = {}
        for rows in self._rows():
            self._refuse_gaps(rows)
            for path in rows.path:
                if len(first) == ROWS_TRIED:
                    break
                first[path] = os.path.isfile(os.path.join(self.root, path))
            for label in dict.fromkeys(rows.label):
                if label not in class_of:
                    where = f"{self.table}, line {rows.lines[rows.label.index(label)]}"
                    class_of[label] = name_class(label, self.names, where)
            paths = self._relative(rows.path)
            keys = make_keys(paths)
            groups = any(rows.group)
            yield ItemColumns(
                key=keys,
                split_key=[f"group:{group}" if group else key for key, group in zip(keys, rows.group, strict=True)]
                if groups
                else keys,
                class_name=[class_of[label] for label in rows.label],
                locator=paths,
                caption=rows.caption,
                attributes=rows.attributes,
            )
        self._check_rows(first, set(class_of.values()))

    def read(self, item: SourceItem) -> bytes:
        """Return the file's bytes."""
        return read_inside(self.root, item.locator)

    def _relative(self, paths: Sequence[str]) -> Sequence[str]:
        text = "\n".join(["", *paths])
        if "\n/" in text or "//" in text or "./" in text:
            return [self._relative_one(path) for path in paths]
        return paths

    def _relative_one(self, path: str) -> str:
        if path.startswith("/"):
            return os.path.relpath(path, self.root)
        return os.path.normpath(path) if "//" in path or "./" in path else path

    def _refuse_gaps(self, rows: _Rows) -> None:
        if all(rows.path) and all(rows.label):
            return
        for line, path, label in zip(rows.lines, rows.path, rows.label, strict=True):
            if not path:
                raise SourceError(f"{self.table}, line {line}: no path; expected the name of an image")
            if not label:
                raise SourceError(
                    f"{self.table}, line {line}: no label for {path}; expected the name or number of a class"
                )

    def _check_rows(self, first: Mapping[str, bool], used: set[str]) -> None:
        if not used:
            raise SourceError(f"{self.table} has no rows: expected one row an image with path and label")
        if self._found is None:
            self._found = sort_classes(used)
        empty = [name for name in self.classes if name not in used]
        if empty:
            raise SourceError(
                f"{self.table}: no row for class {name_some(empty)}; add images or take it out of `classes`"
            )
        if not any(first.values()):
            raise SourceError(
                f"{self.table}: none of its first {len(first)} images exists, for example "
                f"{os.path.join(self.root, next(iter(first)))}; paths start from {self.root}, or set `image_folder`"
            )

    def _rows(self) -> Iterator[_Rows]:
        return self._json_rows() if self.table.lower().endswith(".jsonl") else self._csv_rows()

    def _csv_rows(self) -> Iterator[_Rows]:
        delimiter = "\t" if self.table.lower().endswith(".tsv") else ","
        with self._decoded() as file:
            reader = csv.reader(file, delimiter=delimiter)
            try:
                header = [name.strip() for name in next(reader, [])]
                self._check_columns(header)
                filled = filter(None, reader)
                while batch := [(reader.line_num, cells) for cells in islice(filled, ROWS_AT_ONCE)]:
                    yield self._in_columns(header, batch)
            except csv.Error as error:
                raise SourceError(f"{self.table}, line {reader.line_num}: not a table: {error}") from error

    def _in_columns(self, header: Sequence[str], batch: Sequence[tuple[int, list[str]]]) -> _Rows:
        if {len(cells) for _, cells in batch} != {len(header)}:
            line, number = next((line, len(cells)) for line, cells in batch if len(cells) != len(header))
            raise SourceError(
                f"{self.table}, line {line}: {number} cells, the header has {len(header)}; "
                "quote cells that hold the separator"
            )
        places = [header.index(name) if name in header else None for name in COLUMNS]
        path, label, caption, group = (
            [""] * len(batch) if at is None else [cells[at].strip() for _, cells in batch] for at in places
        )
        kept = [(name, header.index(name)) for name in self.attributes]
        attributes: list[Mapping[str, str]] = [NO_ATTRIBUTES] * len(batch)
        if kept:
            attributes = [{name: cells[at] for name, at in kept} for _, cells in batch]
        return _Rows([line for line, _ in batch], path, label, caption, group, attributes)

    @contextmanager
    def _decoded(self) -> Iterator[TextIO]:
        try:
            with open(self.table, encoding="utf-8-sig", newline="") as file:
                yield file
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{self.table} is not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8"
            ) from error

    def _check_columns(self, header: list[str]) -> None:
        for name in (*REQUIRED, *self.attributes):
            if name not in header:
                purpose = "needed are path and label" if name in REQUIRED else "`attributes` asks for it"
                columns = f"its columns are {name_some(header)}" if header else "it is empty"
                raise SourceError(f"{self.table} has no column {name!r}: {purpose}; {columns}")
        doubled = sorted({name for name in header if header.count(name) > 1})
        if doubled:
            raise SourceError(f"{self.table}: column {name_some(doubled)} occurs twice; rename one of the two")

    def _json_rows(self) -> Iterator[_Rows]:
        with self._decoded() as file:
            filled = ((line, text) for line, text in enumerate(file, start=1) if text.strip())
            while batch := list(islice(filled, ROWS_AT_ONCE)):
                records = [self._record(line, text) for line, text in batch]
                path, label, caption, group = ([_text(record.get(name)) for record in records] for name in COLUMNS)
                attributes = [{name: str(record[name]) for name in self.attributes} for record in records]
                yield _Rows([line for line, _ in batch], path, label, caption, group, attributes)

    def _record(self, line: int, text: str) -> dict[str, object]:
        try:
            record = loads_outside(text)
        except ValueError as error:
            raise SourceError(
                f'{self.table}, line {line}: {error}; expected {{"path": "a/1.jpg", "label": "cat"}}'
            ) from error
        if not isinstance(record, dict):
            raise SourceError(f"{self.table}, line {line}: expected an object, got {text[:40]!r}")
        missing = [name for name in (*REQUIRED, *self.attributes) if record.get(name) is None]
        if missing:
            raise SourceError(
                f"{self.table}, line {line}: no field {name_some(missing)}; it has {name_some([*record])}"
            )
        return record


def _text(value: object) -> str:
    """Return a text or number as text; "" for another type, which counts as missing."""
    return str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
