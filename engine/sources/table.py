"""A CSV, TSV or JSONL with the columns path and label, and if wanted caption, group, mask and attributes."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cached_property

from engine.errors import SourceError
from engine.runfile.data import TableSource
from engine.sources.item import ItemColumns, SourceItem, UnreadableItemError, local_folder, make_keys, read_inside
from engine.sources.labels import class_names, group_texts, name_class, sort_classes, without_missing
from engine.sources.presence import absent_files
from engine.sources.rows import Rows, read_rows, table_columns
from engine.wording import name_some

ROWS_TRIED = 20
MASK = "mask"


class TableImages:
    """Read the images that a table names; paths are relative to the table's folder or `image_folder`."""

    notes: Sequence[str] = ()

    def __init__(self, config: TableSource) -> None:
        self.config = config
        self.table = config.path
        if not os.path.isfile(self.table):
            raise SourceError(f"table not found: {self.table}; correct `path` (it is relative to the run file)")
        if not self.table.lower().endswith((".csv", ".tsv", ".jsonl")):
            raise SourceError(f"{self.table}: a table ends in .csv, .tsv or .jsonl")
        folder = config.image_folder
        self.root = local_folder(folder if folder is not None else os.path.dirname(self.table) or ".", "image_folder")
        self.names = class_names(config.classes, self.table)
        self.attributes = config.attributes
        self._found: tuple[str, ...] | None = self.names or None

    @property
    def classes(self) -> tuple[str, ...]:
        """Return `classes` of the configuration, else every label that occurs."""
        if self._found is None:
            class_of: dict[str, str] = {}
            for rows in self._rows():
                self._refuse_gaps(rows)
                self._name_labels(rows, class_of)
            self._found = sort_classes(class_of.values())
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
            written = self._with_slashes(rows.path)
            for path in written:
                if len(first) == ROWS_TRIED:
                    break
                first[path] = os.path.isfile(os.path.join(self.root, path))
            self._name_labels(rows, class_of)
            paths = self._relative(written)
            keys = make_keys(paths)
            split_keys: Sequence[str] = keys
            if any(rows.group):
                groups = zip(keys, group_texts(rows.group), strict=True)
                split_keys = [f"group:{group}" if group else key for key, group in groups]
            yield ItemColumns(
                key=keys,
                split_key=split_keys,
                class_name=[class_of[label] for label in rows.label],
                locator=paths,
                caption=without_missing(rows.caption),
                attributes=rows.attributes,
            )
        self._check_rows(first, set(class_of.values()))

    def read(self, item: SourceItem) -> bytes:
        """Return the file's bytes."""
        return read_inside(self.root, item.locator)

    @property
    def has_masks(self) -> bool:
        """Return whether the table has the column of masks."""
        return MASK in table_columns(self.table)

    @cached_property
    def masks(self) -> Mapping[str, str]:
        """Return the path of each image's mask by its locator, "" where its row names none."""
        return {
            path: attributes[MASK]
            for rows in read_rows(self.table, (MASK,))
            for path, attributes in zip(self._relative(self._with_slashes(rows.path)), rows.attributes, strict=True)
        }

    def mask(self, item: SourceItem) -> bytes:
        """Return the bytes of the mask's file, whose path is relative as the image's is."""
        if not (path := self.masks[item.locator]):
            raise UnreadableItemError("missing_file", f"the row of {item.locator} names no mask")
        return read_inside(self.root, path)

    def absent(self, locators: Iterable[str]) -> set[str]:
        """Return those of these images that do not exist."""
        return absent_files(self.root, locators)

    def _rows(self) -> Iterator[Rows]:
        return read_rows(self.table, self.attributes)

    def _name_labels(self, rows: Rows, class_of: dict[str, str]) -> None:
        """Add the class of each label that is new to `class_of`."""
        for label in dict.fromkeys(rows.label):
            if label not in class_of:
                where = f"{self.table}, line {rows.lines[rows.label.index(label)]}"
                class_of[label] = name_class(label, self.names, where)

    def _with_slashes(self, paths: Sequence[str]) -> Sequence[str]:
        """Return paths with / for \\ where a file is found so and not as written, as in a table from Windows."""
        if "\\" not in "".join(paths):
            return paths
        unknown = self.absent(path for path in paths if "\\" in path)
        absent = self.absent(path.replace("\\", "/") for path in unknown)
        slashed = {path: path.replace("\\", "/") for path in unknown if path.replace("\\", "/") not in absent}
        return [slashed.get(path, path) for path in paths]

    def _relative(self, paths: Sequence[str]) -> Sequence[str]:
        text = "\n".join(["", *paths])
        if "\n/" in text or "//" in text or "./" in text:
            return [self._relative_one(path) for path in paths]
        return paths

    def _relative_one(self, path: str) -> str:
        if path.startswith("/"):
            return os.path.relpath(path, self.root)
        return os.path.normpath(path) if "//" in path or "./" in path else path

    def _refuse_gaps(self, rows: Rows) -> None:
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
