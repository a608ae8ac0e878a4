"""The listing of a source in columns, so that a million items are cheap."""

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from engine.errors import SourceError
from engine.runfile import Splits
from engine.sources import Source, SourceItem
from engine.splits import SPLITS, hashes, splits_of

if TYPE_CHECKING:
    import pyarrow as pa

TEXTS = ("key", "split_key", "locator", "caption", "attributes")
ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Hold the items of a source; row i of every field is item i.

    `split` indexes SPLITS. `place` is a 64-bit hash of seed and key: sorted by it, items are in random but fixed order.
    """

    texts: "pa.Table"
    label: npt.NDArray[np.int32]
    split: npt.NDArray[np.int8]
    place: npt.NDArray[np.uint64]

    def take(self, order: npt.NDArray[np.int64], shard: npt.NDArray[np.int64]) -> "pa.Table":
        """Return the plan's table: these rows in this order."""
        import pyarrow as pa

        rows = pa.array(order)
        split = pa.DictionaryArray.from_arrays(self.split[order], list(SPLITS)).cast(pa.string())
        columns = {"shard": pa.array(shard.astype(np.int32)), "split": split, "label": pa.array(self.label[order])}
        for name in TEXTS:
            # Most sources are groups of one: the two columns are then one in memory.
            is_key = name == "split_key" and self.texts.column(name).equals(self.texts.column("key"))
            columns[name] = columns["key"] if is_key else self.texts.column(name).combine_chunks().take(rows)
        return pa.table(columns)

    def keep(self, rows: npt.NDArray[np.int64]) -> "Listing":
        """Return the listing of these rows alone."""
        import pyarrow as pa

        texts = self.texts.take(pa.array(rows))
        return Listing(texts=texts, label=self.label[rows], split=self.split[rows], place=self.place[rows])

    def with_split_keys(self, split_keys: list[str], splits: Splits, seed: int) -> "Listing":
        """Return the listing with other split keys, and the splits that follow from them."""
        import pyarrow as pa

        place = self.texts.schema.get_field_index("split_key")
        texts = self.texts.set_column(place, "split_key", pa.array(split_keys, pa.large_string()))
        return replace(self, texts=texts, split=splits_of(split_keys, splits, seed))


def list_source(source: Source, splits: Splits, seed: int) -> Listing:
    """List a source; SourceError where two items have one key or there is none."""
    import pyarrow as pa

    batches, labels, split_codes, places = [], [], [], []
    items = source.items()
    with _no_garbage_collection():
        while batch := list(islice(items, ROWS_AT_ONCE)):
            batches.append(_texts(batch))
            labels.append(np.array([item.label for item in batch], dtype=np.int32))
            split_codes.append(splits_of([item.split_key for item in batch], splits, seed))
            places.append(hashes(f"order/{seed}/", [item.key for item in batch]))
    if not batches:
        raise SourceError("the source has no images: expected at least one")
    texts = pa.Table.from_batches(batches)
    place = np.concatenate(places)
    _refuse_twins(texts, place)
    return Listing(texts=texts, label=np.concatenate(labels), split=np.concatenate(split_codes), place=place)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep Python from looking for cycles: items have none, and looking through them takes a tenth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _texts(batch: list[SourceItem]) -> "pa.RecordBatch":
    import pyarrow as pa

    keys, split_keys = [item.key for item in batch], [item.split_key for item in batch]
    key = pa.array(keys, pa.large_string())
    columns = (
        key,
        key if split_keys == keys else split_keys,
        [item.locator for item in batch],
        [item.caption for item in batch],
        [json.dumps(dict(item.attributes), sort_keys=True) if item.attributes else "" for item in batch],
    )
    # large_string: captions of many millions of items pass the 2 GiB of a string column.
    return pa.record_batch([pa.array(column, pa.large_string()) for column in columns], names=list(TEXTS))


def _refuse_twins(texts: "pa.Table", place: npt.NDArray[np.uint64]) -> None:
    import pyarrow.compute as pc

    ordered = np.sort(place)
    # One key has one place; two keys with one place are as good as impossible, and looked at.
    shared = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(shared):
        return
    rows = texts.filter(np.isin(place, shared))
    counted = pc.value_counts(rows.column("key")).to_pylist()
    key = next((row["values"] for row in counted if row["counts"] > 1), None)
    if key is None:
        return
    twins = rows.filter(pc.equal(rows.column("key"), key)).column("locator").to_pylist()
    raise SourceError(
        f"one image is listed twice: {twins[0]!r} and {twins[1]!r} have the key {key}; list each image once"
    )
