"""A Hugging Face dataset on disk, as `save_to_disk` writes it."""

import os
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from engine.errors import SourceError
from engine.runfile.data import HuggingFaceSource
from engine.sources.item import SourceItem, UnreadableItemError, check_size, local_folder, make_key, sort_classes
from engine.wording import name_some

ROWS_READ_AT_ONCE = 10_000


class HuggingFaceImages:
    """Read rows of a dataset; the image column holds encoded images or their bytes."""

    def __init__(self, config: HuggingFaceSource) -> None:
        self.root = local_folder(config.path)
        self.config = config
        optional = (config.caption_column, config.group_column)
        self._described_by = [config.label_column, *filter(None, optional), *config.attributes]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Return the label names that occur, in the order of a ClassLabel's names."""
        from datasets import ClassLabel

        feature = self._rows.features[self.config.label_column]
        used = set(self._rows.unique(self.config.label_column))
        if used & {None, -1, ""}:
            raise SourceError(f"{self.root}: column {self.config.label_column!r} has rows without a label: remove them")
        if isinstance(feature, ClassLabel):
            return tuple(name for value, name in enumerate(feature.names) if value in used)
        return sort_classes({str(value) for value in used})

    def items(self) -> Iterator[SourceItem]:
        """Yield one item a row, read column by column so that no image is touched."""
        from datasets import ClassLabel

        config = self.config
        labels = {name: label for label, name in enumerate(self.classes)}
        feature = self._rows.features[config.label_column]
        rows = self._rows.select_columns(self._described_by)
        for start in range(0, len(rows), ROWS_READ_AT_ONCE):
            batch = rows[start : start + ROWS_READ_AT_ONCE]
            for place, value in enumerate(batch[config.label_column]):
                class_name = feature.names[value] if isinstance(feature, ClassLabel) else str(value)
                group = None if config.group_column is None else batch[config.group_column][place]
                key = make_key(f"row-{start + place:08d}")
                yield SourceItem(
                    key=key,
                    split_key=key if group is None else f"group:{group}",
                    label=labels[class_name],
                    class_name=class_name,
                    locator=str(start + place),
                    caption=str(batch[config.caption_column][place] or "") if config.caption_column else "",
                    attributes={name: str(batch[name][place]) for name in config.attributes},
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
    def _images(self) -> Any:  # noqa: ANN401  # datasets has no types
        from datasets import Image

        column = self.config.image_column
        rows = self._rows.select_columns([column])
        return rows.cast_column(column, Image(decode=False)) if isinstance(rows.features[column], Image) else rows

    @cached_property
    def _rows(self) -> Any:  # noqa: ANN401  # datasets has no types
        from datasets import DatasetDict, Image, Value, load_from_disk

        config = self.config
        try:
            found = load_from_disk(self.root)
        except (FileNotFoundError, ValueError, OSError) as error:
            raise SourceError(f"{self.root} is not a dataset that save_to_disk wrote: {error}") from error
        if isinstance(found, DatasetDict):
            if config.split not in found:
                raise SourceError(f"{self.root} holds {name_some([*found])}: name one in `split`, got {config.split!r}")
            found = found[config.split]
        for name in (config.image_column, *self._described_by):
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
