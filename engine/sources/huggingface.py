"""A Hugging Face dataset on disk, as `save_to_disk` writes it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from engine.errors import SourceError
from engine.names import nfc
from engine.runfile.data import HuggingFaceSource
from engine.sources.item import SourceItem, UnreadableItemError, check_size, local_folder, make_key
from engine.sources.labels import (
    MISSING,
    attribute_text,
    class_names,
    group_texts,
    known_texts,
    name_class,
    repeated_fields,
    sort_classes,
    without_missing,
)
from engine.wording import name_some

ROWS_READ_AT_ONCE = 10_000
GROUP = "group"


class HuggingFaceImages:
    """Read rows of a dataset; the image column holds encoded images or their bytes."""

    def __init__(self, config: HuggingFaceSource) -> None:
        self.root = local_folder(config.path)
        self.config = config
        self.names = class_names(config.classes, config.path)

    @property
    def notes(self) -> Sequence[str]:
        """Return that the column `group` decides splits, where it is not `group_column`."""
        if self.config.group_column or not self._group_column:
            return ()
        return (f"{self.root}: rows with the same value of the column {GROUP!r} fall in one split",)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Return the label names that occur, in the order of `classes` or of a ClassLabel's names."""
        used = set(self._class_of.values())
        if unused := [name for name in self.names if name not in used]:
            raise SourceError(f"{self.root}: no row for class {name_some(unused)}; take it out of `classes`")
        order = self.names or self._label_names
        return tuple(name for name in dict.fromkeys(order) if name in used) or sort_classes(used)

    def items(self) -> Iterator[SourceItem]:
        """Yield one item a row, read column by column so that no image is touched."""
        config = self.config
        labels = {name: label for label, name in enumerate(self.classes)}
        columns = (config.label_column, config.caption_column, self._group_column, *config.attributes)
        rows = self._rows.select_columns(list(dict.fromkeys(filter(None, columns))))
        for start in range(0, len(rows), ROWS_READ_AT_ONCE):
            batch = rows[start : start + ROWS_READ_AT_ONCE]
            found = batch[config.label_column]
            empty = [None] * len(found)
            groups = group_texts(list(map(attribute_text, batch.get(self._group_column, empty))))
            captions = without_missing([str(text or "") for text in batch.get(config.caption_column, empty)])
            attributes = [self._texts(name, batch[name]) for name in config.attributes]
            for place, value in enumerate(found):
                key = make_key(f"row-{start + place:08d}")
                yield SourceItem(
                    key=key,
                    split_key=f"group:{groups[place]}" if groups[place] else key,
                    label=labels[self._class_of[value]],
                    class_name=self._class_of[value],
                    locator=str(start + place),
                    caption=captions[place],
                    attributes={name: texts[place] for name, texts in zip(config.attributes, attributes, strict=True)},
                )

    def read(self, item: SourceItem) -> bytes:
        """Return the image's bytes as they were saved."""
        value = self._images[int(item.locator)][self.config.image_column]
        data = value if isinstance(value, bytes) else (value or {}).get("bytes")
        if data is None:
            path = (value or {}).get("path")
            reason = f"its image is a path only ({path})" if path else "it has no image"
            raise UnreadableItemError("missing_file", f"row {item.locator}: {reason}; save the dataset with its images")
        return check_size(data, f"row {item.locator}")

    @cached_property
    def _class_of(self) -> Mapping[object, str]:
        """Return the class of each value of the label column; SourceError for rows without a label."""
        from datasets import ClassLabel, Value

        column = self.config.label_column
        feature = self._rows.features[column]
        if not isinstance(feature, ClassLabel | Value):
            raise SourceError(f"{self.root}: column {column!r} holds {feature}, expected one name or number a row")
        found = {value: self._class_name(value) for value in self._rows.unique(column)}
        if missing := [value for value, name in found.items() if name is None]:
            values = self._rows.select_columns([column])[:][column]
            rows = [row for row, value in enumerate(values) if self._class_name(value) is None]
            words = MISSING.intersection(missing)
            named = f", or list every class in `classes` where one is called {name_some([*words])}" if words else ""
            raise SourceError(
                f"{self.root}: column {column!r} has {len(rows)} rows without a label ({name_some(missing)} count as "
                f"missing), the first is row {rows[0]}; remove them{named}"
            )
        return {value: name for value, name in found.items() if name is not None}

    def _class_name(self, value: object) -> str | None:
        """Return the class of a value of the label column, None for one that means missing."""
        text = attribute_text(value)
        if self._label_names:
            order = self.names or self._label_names
            return order[int(text)] if text.isdecimal() and int(text) < len(order) else None
        if not text or (text in MISSING and text not in self.names):
            return None
        return name_class(text, self.names, f"{self.root}: column {self.config.label_column!r}")

    @cached_property
    def _label_names(self) -> Sequence[str]:
        return self._value_names(self.config.label_column)

    def _value_names(self, column: str) -> Sequence[str]:
        """Return the names of a ClassLabel's integers, none for another column."""
        return [nfc(name) for name in getattr(self._rows.features[column], "names", None) or ()]

    def _texts(self, column: str, values: Sequence[object]) -> Sequence[str]:
        names = self._value_names(column)
        if names:
            values = [names[value] if isinstance(value, int) and value >= 0 else None for value in values]
        return known_texts(list(map(attribute_text, values)))

    @cached_property
    def _group_column(self) -> str | None:
        """Return the column of groups: `group_column`, else one that is called so and is used for nothing else."""
        config = self.config
        used = (config.image_column, config.label_column, config.caption_column, *config.attributes)
        has_group = GROUP in self._rows.column_names and GROUP not in used
        return config.group_column or (GROUP if has_group else None)

    @cached_property
    def _images(self) -> Any:  # noqa: ANN401  # datasets has no types
        from datasets import Image

        column = self.config.image_column
        rows = self._rows.select_columns([column])
        return rows.cast_column(column, Image(decode=False)) if isinstance(rows.features[column], Image) else rows

    @cached_property
    def _rows(self) -> Any:  # noqa: ANN401  # datasets has no types
        from datasets import Image, Value

        config = self.config
        found = _load(self.root, config.split)
        optional = (config.caption_column, config.group_column)
        for name in (config.image_column, config.label_column, *filter(None, optional), *config.attributes):
            if name not in found.column_names:
                raise SourceError(
                    f"{self.root} has no column {name!r}; its columns are {name_some(found.column_names)}"
                )
        feature = found.features[config.image_column]
        if not isinstance(feature, Image) and feature not in (Value("binary"), Value("large_binary")):
            raise SourceError(
                f"{self.root}: column {config.image_column!r} holds {feature}; expected images or their encoded bytes, "
                "name the right one in `image_column`"
            )
        if not len(found):
            raise SourceError(f"{os.path.basename(self.root)} has no rows: expected at least one labelled image")
        return found


def guess_columns(path: str) -> HuggingFaceSource:
    """Return the source of a saved dataset whose columns are told by their types: image, label and attributes.

    Attributes are columns of texts, numbers and names, but for those in which most rows differ.
    """
    from datasets import ClassLabel, Image, Value

    try:
        rows = _load(path, None)
    except SourceError:
        return HuggingFaceSource(path=path)
    features = rows.features
    known = {}
    for field, default, kind in (("image_column", "image", Image), ("label_column", "label", ClassLabel)):
        fitting = [name for name, feature in features.items() if isinstance(feature, kind)]
        known[field] = fitting[0] if default not in features and len(fitting) == 1 else default
    kept = [name for name, feature in features.items() if isinstance(feature, ClassLabel | Value)]
    kept = [name for name in kept if name not in (*known.values(), GROUP) and "binary" not in str(features[name])]
    batch = rows.select_columns(kept)[:ROWS_READ_AT_ONCE] if kept else {}
    records = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    return HuggingFaceSource(path=path, attributes=repeated_fields(records), **known)


def _load(root: str, split: str | None) -> Any:  # noqa: ANN401  # datasets has no types
    from datasets import DatasetDict, load_from_disk

    try:
        found = load_from_disk(root)
    except (FileNotFoundError, ValueError, OSError) as error:
        raise SourceError(f"{root} is not a dataset that save_to_disk wrote: {error}") from error
    if isinstance(found, DatasetDict):
        if split not in found:
            raise SourceError(f"{root} holds {name_some([*found])}: name one in `split`, got {split!r}")
        found = found[split]
    return found
