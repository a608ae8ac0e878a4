"""The listing of a source in columns, so that a million items are cheap."""

import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from engine.errors import SourceError
from engine.plan.splits import SPLITS, hashes, splits_of
from engine.runfile.data import Splits
from engine.sources import Source
from engine.sources.item import InColumns, ItemColumns

if TYPE_CHECKING:
    import pyarrow as pa

TEXTS = ("key", "split_key", "locator", "caption", "attributes")
ROWS_AT_ONCE = 65_536
BATCHES_JOINED = 128
# As many as a row group of parquet has.
ROWS_TAKEN = 2**20


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The items of a source; row i of every field is item i.

    `texts` has the columns TEXTS. `split` indexes SPLITS. `place` is a 64-bit hash of seed and key: sorted by it, items
    are in random but fixed order.
    """

    texts: "dict[str, pa.ChunkedArray]"
    label: npt.NDArray[np.int32]
    split: npt.NDArray[np.int8]
    place: npt.NDArray[np.uint64]

    def take(self, order: npt.NDArray[np.int64], shard: npt.NDArray[np.int64]) -> "pa.Table":
        """Return the plan's table: these rows in this order. It takes the texts out of the listing.

        Of many millions of items they would fill the memory twice.
        """
        import pyarrow as pa

        rows = pa.array(order)
        split = pa.DictionaryArray.from_arrays(self.split[order], list(SPLITS)).cast(pa.string())
        columns = {"shard": pa.array(shard.astype(np.int32)), "split": split, "label": pa.array(self.label[order])}
        # Most sources are groups of one: the two columns are then one in memory.
        alone = self.texts["split_key"].equals(self.texts["key"])
        for name in TEXTS:
            whole = self.texts.pop(name).combine_chunks()
            if name == "split_key" and alone:
                columns[name] = columns["key"]
                continue
            # Piece by piece: an array that grows as it is taken needs up to three times its size.
            starts = range(0, len(rows), ROWS_TAKEN)
            columns[name] = pa.chunked_array([whole.take(rows[start : start + ROWS_TAKEN]) for start in starts])
            del whole
            # Otherwise the pool holds the freed memory for a while longer than the next column needs it.
            pa.default_memory_pool().release_unused()
        return pa.table(columns)

    def keep(self, rows: npt.NDArray[np.int64]) -> "Listing":
        """Return the listing of these rows alone."""
        import pyarrow as pa

        places = pa.array(rows)
        texts = {name: column.take(places) for name, column in self.texts.items()}
        return Listing(texts=texts, label=self.label[rows], split=self.split[rows], place=self.place[rows])

    def with_split_keys(self, split_keys: list[str], splits: Splits, seed: int) -> "Listing":
        """Return the listing with other split keys, and the splits that follow from them."""
        import pyarrow as pa

        texts = self.texts | {"split_key": pa.chunked_array([pa.array(split_keys, pa.large_string())])}
        return replace(self, texts=texts, split=splits_of(split_keys, splits, seed))


def list_source(source: Source, splits: Splits, seed: int) -> Listing:
    """List a source; SourceError where two items have one key or there is none."""
    import pyarrow as pa

    batches, loose, codes, split_codes, places = [], [], [], [], []
    code_of: dict[str, int] = {}
    with _no_garbage_collection():
        for items in _columns(source):
            loose.append(_texts(items))
            if len(loose) == BATCHES_JOINED:
                batches.append(_join(loose))
                loose = []
            for name in dict.fromkeys(items.class_name):
                code_of.setdefault(name, len(code_of))
            codes.append(np.fromiter(map(code_of.__getitem__, items.class_name), np.int32, len(items.class_name)))
            split_codes.append(splits_of(items.split_key, splits, seed))
            places.append(hashes(f"order/{seed}/", items.key))
    if not codes:
        raise SourceError("the source has no images: expected at least one")
    texts = dict(zip(TEXTS, pa.Table.from_batches([*batches, *loose]).columns, strict=True))
    del batches, loose
    place = np.concatenate(places)
    _refuse_twins(texts, place)
    # Only now: some sources know their classes at the end of their listing.
    label_of = {name: label for label, name in enumerate(source.classes)}
    labels = np.array([label_of[name] for name in code_of], np.int32)
    return Listing(texts=texts, label=labels[np.concatenate(codes)], split=np.concatenate(split_codes), place=place)


def _columns(source: Source) -> Iterator[ItemColumns]:
    if isinstance(source, InColumns):
        yield from source.columns()
        return
    items = source.items()
    while batch := list(islice(items, ROWS_AT_ONCE)):
        yield ItemColumns(
            **{field.name: [getattr(item, field.name) for item in batch] for field in fields(ItemColumns)}
        )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Switch the cyclic garbage collector off: items have no cycles, and scanning them takes a tenth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _texts(items: ItemColumns) -> "pa.RecordBatch":
    import pyarrow as pa

    # large_string: captions of many millions of items pass the 2 GiB of a string column.
    key = pa.array(items.key, pa.large_string())
    split_key = key if items.split_key == items.key else pa.array(items.split_key, pa.large_string())
    others = (items.locator, items.caption, _attribute_texts(items.attributes))
    columns = [key, split_key, *(pa.array(column, pa.large_string()) for column in others)]
    return pa.record_batch(columns, names=list(TEXTS))


def _join(batches: "list[pa.RecordBatch]") -> "pa.RecordBatch":
    """Return many batches as one: small pieces take a third more memory."""
    import pyarrow as pa

    columns = {name: pa.concat_arrays([batch.column(name) for batch in batches]) for name in TEXTS}
    if columns["split_key"].equals(columns["key"]):
        columns["split_key"] = columns["key"]
    return pa.record_batch(columns)


def _attribute_texts(attributes: Sequence[Mapping[str, str]]) -> list[str]:
    """Return attributes as JSON, "" for none; each distinct set is encoded once."""
    if not any(attributes):
        return [""] * len(attributes)
    texts: dict[tuple[tuple[str, str], ...], str] = {(): ""}
    found = []
    for each in attributes:
        pairs = tuple(each.items())
        if pairs not in texts:
            texts[pairs] = json.dumps(dict(each), sort_keys=True)
        found.append(texts[pairs])
    return found


def _refuse_twins(texts: "dict[str, pa.ChunkedArray]", place: npt.NDArray[np.uint64]) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    ordered = np.sort(place)
    # Equal keys have equal places; different keys with equal places are practically impossible, but checked.
    shared = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(shared):
        return
    rows = pa.table(texts).filter(np.isin(place, shared))
    counted = pc.value_counts(rows.column("key")).to_pylist()
    key = next((row["values"] for row in counted if row["counts"] > 1), None)
    if key is None:
        return
    twins = rows.filter(pc.equal(rows.column("key"), key)).column("locator").to_pylist()
    raise SourceError(
        f"one image is listed twice: {twins[0]!r} and {twins[1]!r} have the key {key}; list each image once"
    )
