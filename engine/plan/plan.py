"""The plan: which source is in which split and which shard. A pure function of the run file and the input images."""

import hashlib
import io
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from pydantic import JsonValue, TypeAdapter

from engine.errors import LeakError, RunDirectoryError, SourceError
from engine.plan.assignment import NO_SHARD, Integers, assign
from engine.plan.duplicates import NearDuplicates, separate
from engine.plan.hash_store import HashStore
from engine.plan.listing import list_source
from engine.plan.splits import SPLITS
from engine.runfile.data import AnySource, DataConfig
from engine.runfile.fields import ServerConfig
from engine.runfile.run import RunFile
from engine.runfile.stages import AnyStageConfig
from engine.sample import Split
from engine.sources import Source, SourceItem, listing_remarks, open_source
from engine.storage.parquet import parquet_bytes
from engine.wording import name_some

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 2
ROWS_HASHED_AT_ONCE = 65_536
# What of a server does not belong to what it is asked.
WHERE_SERVED = ("url", "num_requests", "timeout_s", "key_variable")

logger = logging.getLogger(__name__)


class PlannedItem(NamedTuple):
    """Pair a source item with its split."""

    item: SourceItem
    split: Split


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Hold every source of the listing: those that get edits in shard order, then the others.

    Columns of `table`: shard (-1: gets no edits), split, key, split_key, label, locator, caption, attributes (JSON).
    Sources of the test split have no shard. A shard holds sources of one split: train shards first, then validation.
    `notes` are remarks on what was listed, a line each; a plan that is read back has none.
    """

    digest: str
    classes: tuple[str, ...]
    num_shards: int
    table: "pa.Table"
    near_duplicates: NearDuplicates | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    def shard(self, index: int) -> list[PlannedItem]:
        """Return the sources of one shard."""
        return list(self._items(self._rows(index)))

    def keys(self, index: int) -> list[str]:
        """Return the source keys of one shard."""
        return cast(list[str], self._rows(index).column("key").to_pylist())

    def split_keys(self) -> dict[str, str]:
        """Return the split key of every source, by its key."""
        keys, split_keys = (self.table.column(name).to_pylist() for name in ("key", "split_key"))
        return dict(zip(keys, split_keys, strict=True))

    def of_split(self, split: Split) -> Iterator[PlannedItem]:
        """Yield every source of a split, those that get no edits too."""
        import pyarrow.compute as pc

        yield from self._items(self.table.filter(pc.equal(self.table.column("split"), split)))

    def counts(self, *, edited: bool = False) -> dict[Split, dict[str, int]]:
        """Return the number of sources by split and class; with `edited` only those that get edits."""
        table = self.table.slice(0, self.num_edited) if edited else self.table
        split = np.asarray(table.column("split"))
        label = np.asarray(table.column("label"))
        return {
            name: dict(
                zip(self.classes, np.bincount(label[split == name], minlength=len(self.classes)).tolist(), strict=True)
            )
            for name in SPLITS
        }

    @cached_property
    def num_train_shards(self) -> int:
        """Return the number of shards of train sources: they come before those of validation sources."""
        import pyarrow.compute as pc

        train = pc.equal(self.table.column("split").slice(0, self.num_edited), "train")
        # Shards are in order, and those of train sources come first.
        return int(self.table.column("shard")[pc.sum(train).as_py() - 1].as_py()) + 1

    @property
    def num_edited(self) -> int:
        """Return the number of sources that get edits."""
        return int(self._starts[-1])

    def to_bytes(self) -> bytes:
        """Return the plan as a parquet file."""
        header = {"digest": self.digest, "classes": self.classes, "num_shards": self.num_shards, "format": FORMAT}
        header |= {"near_duplicates": self.near_duplicates and asdict(self.near_duplicates)}
        return parquet_bytes(self.table.replace_schema_metadata({"counterforge": json.dumps(header)}))

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> "Plan":
        """Read the plan of `to_bytes`; `name` is for the message of a RunDirectoryError."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(io.BytesIO(data))
            header = json.loads(table.schema.metadata[b"counterforge"])
            known = header["format"] == FORMAT
        except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
            raise RunDirectoryError(
                f"{name} is not a plan that counterforge wrote ({error}): make the run again"
            ) from error
        if not known:
            raise RunDirectoryError(f"{name} has plan format {header['format']}, this version reads {FORMAT}")
        return cls(
            digest=header["digest"],
            classes=tuple(header["classes"]),
            num_shards=header["num_shards"],
            # Tuples again, which JSON has as lists.
            near_duplicates=TypeAdapter(NearDuplicates | None).validate_python(header.get("near_duplicates")),
            table=table.replace_schema_metadata(None).combine_chunks(),
        )

    @cached_property
    def _starts(self) -> Integers:
        """Return the first row of each shard, and behind them the number of all rows that have one."""
        shard = np.asarray(self.table.column("shard"))
        return np.searchsorted(shard[: np.count_nonzero(shard != NO_SHARD)], np.arange(self.num_shards + 1))

    def _rows(self, index: int) -> "pa.Table":
        return self.table.slice(self._starts[index], self._starts[index + 1] - self._starts[index])

    def _items(self, table: "pa.Table") -> Iterator[PlannedItem]:
        for batch in table.to_batches(max_chunksize=ROWS_HASHED_AT_ONCE):
            for row in batch.to_pylist():
                del row["shard"]
                split, attributes = row.pop("split"), json.loads(row.pop("attributes") or "{}")
                item = SourceItem(**row, class_name=self.classes[row["label"]], attributes=attributes)
                yield PlannedItem(item, split)


def make_plan(run: RunFile, store: HashStore | None = None) -> Plan:
    """List the sources and plan them; the same run file and listing, in any order, give the same plan.

    The images are looked at for near-duplicates alone, once: `store` has what an earlier plan of the run saw.
    Raises SourceError where the sources cannot be used or none is left to edit, LeakError where test data is training
    data.
    """
    source = open_source(run.data.train)
    listing = list_source(source, run.data.splits, run.seed)
    notes = [f"data.train: {remark}" for remark in listing_remarks(source)]
    notes += check_test_sources(run.data, source)
    listing, found = separate(listing, run, store or HashStore())
    if found and (warning := found.warning(len(listing.label))):
        logger.warning("plan: %s", warning)
    order, shard = assign(listing, run)
    table = listing.take(order, shard)
    return Plan(
        digest=plan_digest(run, source.classes, table),
        classes=source.classes,
        num_shards=int(shard.max()) + 1,
        table=table,
        near_duplicates=found,
        notes=tuple(notes),
    )


def plan_digest(run: RunFile, classes: tuple[str, ...], table: "pa.Table") -> str:
    """Return the SHA-256 of all that decides the bytes of a shard: seed, data, shards, stages and every planned source.

    Settings count where they differ from their defaults, so that a new setting leaves old runs their digest. Placement
    and servers are left out (but for an actor's threads and a server's `extra`), so are probe, reinforce, report and
    the data that nothing is made of. What near-duplicates change is in the sources, so where there are none the digest
    is as without a look at them.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    header = {
        "format": FORMAT,
        "seed": run.seed,
        "data": run.data.changes("test", "shifted", "oracle", "near_duplicates"),
        "shards": run.shards.changes(),
        "stages": [[name, _stage_header(stage)] for name, stage in run.stages.items()],
        "classes": classes,
        # With one round the other settings of rounds decide nothing.
        "rounds": run.rounds.changes() if run.rounds.count > 1 else {},
    }
    digest = hashlib.sha256(json.dumps(header, sort_keys=True, separators=(",", ":")).encode())
    for batch in table.to_batches(max_chunksize=ROWS_HASHED_AT_ONCE):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name in ("shard", "label"):
                digest.update(np.asarray(column).astype("<i8").tobytes())
            else:  # lengths first, so that no two listings give the same bytes
                digest.update(np.asarray(pc.binary_length(column)).astype("<i8").tobytes())
                whole = pa.ListArray.from_arrays([0, len(column)], column)
                digest.update(pc.binary_join(whole, pa.scalar("", column.type))[0].as_buffer())
    return digest.hexdigest()


def _stage_header(stage: AnyStageConfig) -> dict[str, JsonValue]:
    """Return what decides the bytes that a stage makes."""
    header = stage.changes("placement", "server")
    server = getattr(stage, "server", None)
    if isinstance(server, ServerConfig):
        header["server"] = server.changes(*WHERE_SERVED)
    if stage.placement.num_threads > 1:
        header["num_threads"] = stage.placement.num_threads
    return header


def check_test_sources(data: DataConfig, train: Source) -> list[str]:
    """List `test` and `shifted`, so that a mistake in them is found before the run, and return remarks on them.

    Refuses the training data itself, and other classes than those of `train`.
    """
    notes = []
    for name, config in (("test", data.test), ("shifted", data.shifted)):
        if config is None:
            continue
        if _is_same_data(config, data.train):
            raise LeakError(
                f"data.{name} reads the same images as data.train, which are trained on: leave it out to use the test "
                "split of data.train, or name other images"
            )
        source = open_source(config)
        unknown = [name for name in source.classes if name not in train.classes]
        missing = [name for name in train.classes if name not in source.classes]
        if unknown or missing:
            differences = [f"{name_some(unknown)} only in data.{name}"] if unknown else []
            differences += [f"{name_some(missing)} only in data.train"] if missing else []
            raise SourceError(f"data.{name} must have the classes of data.train: {'; '.join(differences)}")
        for _ in source.items():
            pass
        notes += [f"data.{name}: {remark}" for remark in listing_remarks(source)]
    return notes


def _is_same_data(config: AnySource, train: AnySource) -> bool:
    varying = {"correlation", "count", "seed", "captions", "attributes", "colour", "value_range"}
    return config.kind == train.kind and config.model_dump(exclude=varying) == train.model_dump(exclude=varying)
