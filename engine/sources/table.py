"""A CSV, TSV or JSONL with the columns path and label, and if wanted caption, group and attributes."""

import csv
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple, TextIO

from engine.errors import SourceError
from engine.outside import loads_outside
from engine.runfile import TableSource
from engine.sources.item import SourceItem, local_folder, make_key, name_class, name_some, read_inside, sort_classes

REQUIRED = ("path", "label")
COLUMNS = (*REQUIRED, "caption", "group")
ROWS_TRIED = 20


NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})


class _Row(NamedTuple):
    line: int
    path: str
    label: str
    caption: str
    group: str
    attributes: Mapping[str, str]


class TableImages:
    """Read the images that a table names; paths are relative to the table's folder or `image_folder`."""

    def __init__(self, config: TableSource) -> None:
        self.table = config.path
        if not os.path.isfile(self.table):
            raise SourceError(f"table not found: {self.table}; correct `path` (it is relative to the run file)")
        if not self.table.lower().endswith((".csv", ".tsv", ".jsonl")):
            raise SourceError(f"{self.table}: a table ends in .csv, .tsv or .jsonl")
        folder = config.image_folder
        self.root = local_folder(folder if folder is not None else os.path.dirname(self.table) or ".", "image_folder")
        self.names = config.classes
        self.attributes = config.attributes

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Return `classes` of the configuration, else every label that occurs."""
        if self.names:
            return self.names
        return sort_classes(set(self._labels()))

    def items(self) -> Iterator[SourceItem]:
        """Yield one item a row; raise SourceError for an unknown label, a class without rows, no image found."""
        labels = {name: label for label, name in enumerate(self.classes)}
        used: set[str] = set()
        first: dict[str, bool] = {}
        for row in self._rows():
            if len(first) < ROWS_TRIED:
                first[row.path] = os.path.isfile(os.path.join(self.root, row.path))
            path = self._relative(row.path)
            class_name = row.label
            if class_name not in labels:
                class_name = name_class(row.label, self.names, f"{self.table}, line {row.line}")
            used.add(class_name)
            key = make_key(path)
            yield SourceItem(
                key=key,
                split_key=f"group:{row.group}" if row.group else key,
                label=labels[class_name],
                class_name=class_name,
                locator=path,
                caption=row.caption,
                attributes=row.attributes,
            )
        self._check_rows(first, used)

    def read(self, item: SourceItem) -> bytes:
        """Return the file's bytes."""
        return read_inside(self.root, item.locator)

    def _relative(self, path: str) -> str:
        if path.startswith("/"):
            return os.path.relpath(path, self.root)
        return os.path.normpath(path) if "//" in path or "./" in path else path

    def _check_rows(self, first: Mapping[str, bool], used: set[str]) -> None:
        if not used:
            raise SourceError(f"{self.table} has no rows: expected one row an image with path and label")
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

    def _labels(self) -> Iterator[str]:
        """Yield the labels alone: that pass over the whole table costs a fraction of the one that makes the items."""
        if self.table.lower().endswith(".jsonl"):
            yield from (row.label for row in self._json_rows())
            return
        rows = self._csv_cells()
        _, header = next(rows)
        at = header.index("label")
        # A row without a label is refused by the other pass.
        yield from filter(None, (cells[at].strip() for _, cells in rows))

    def _rows(self) -> Iterator[_Row]:
        return self._json_rows() if self.table.lower().endswith(".jsonl") else self._csv_rows()

    def _csv_rows(self) -> Iterator[_Row]:
        rows = self._csv_cells()
        _, header = next(rows)
        places = [header.index(name) if name in header else None for name in COLUMNS]
        kept = [(name, header.index(name)) for name in self.attributes]
        for line, cells in rows:
            values = ["" if at is None else cells[at].strip() for at in places]
            yield self._row(line, values, {name: cells[at] for name, at in kept} if kept else NO_ATTRIBUTES)

    def _csv_cells(self) -> Iterator[tuple[int, list[str]]]:
        """Yield line number and cells of the header, then of each row."""
        delimiter = "\t" if self.table.lower().endswith(".tsv") else ","
        with self._decoded() as file:
            reader = csv.reader(file, delimiter=delimiter)
            try:
                header = [name.strip() for name in next(reader, [])]
                self._check_columns(header)
                yield reader.line_num, header
                for cells in filter(None, reader):
                    if len(cells) != len(header):
                        raise SourceError(
                            f"{self.table}, line {reader.line_num}: {len(cells)} cells, the header has {len(header)}; "
                            "quote cells that hold the separator"
                        )
                    yield reader.line_num, cells
            except csv.Error as error:
                raise SourceError(f"{self.table}, line {reader.line_num}: not a table: {error}") from error

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

    def _json_rows(self) -> Iterator[_Row]:
        with self._decoded() as file:
            for line, text in enumerate(file, start=1):
                if not text.strip():
                    continue
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
                values = [_text(record.get(name)) for name in COLUMNS]
                yield self._row(line, values, {name: str(record[name]) for name in self.attributes})

    def _row(self, line: int, values: list[str], attributes: Mapping[str, str]) -> _Row:
        path, label, caption, group = values
        if not path:
            raise SourceError(f"{self.table}, line {line}: no path; expected the name of an image")
        if not label:
            raise SourceError(f"{self.table}, line {line}: no label for {path}; expected the name or number of a class")
        return _Row(line, path, label, caption, group, attributes)


def _text(value: object) -> str:
    """Return a text or number as text; nothing for another type, which then counts as missing."""
    return str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
