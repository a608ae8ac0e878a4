"""The perceptual hashes of a run's images, computed once by several threads and cached in the run directory."""

import hashlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from time import monotonic

import numpy as np
import numpy.typing as npt

from engine.plan.image_hash import HASH_BYTES, Hashes, image_hash
from engine.runfile.data import AnySource
from engine.sources import SourceItem, UnreadableItemError, open_source
from engine.storage.parquet import parquet_bytes
from engine.storage.storage import Storage

HASHES = "hashes.parquet"
IMAGES_PER_TASK = 64
SAY_EVERY_S = 20.0

# A hash; None where the image is too plain for one, the reason where it cannot be read.
Known = dict[str, bytes | str | None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Looks:
    """Hashes (n, 4) of some images, a mask (n,) of those that have one, and by row why an image cannot be read."""

    hashes: Hashes
    there: npt.NDArray[np.bool_]
    unreadable: Mapping[int, str] = field(default_factory=dict)


class HashStore:
    """Perceptual hashes of images: read from the run directory where an earlier plan stored them, else computed.

    The cache key is source and item key: as for the plan, a file that changes under its name is the same image.
    """

    def __init__(self, storage: Storage | None = None) -> None:
        self._sets: dict[str, Known] = _read(storage.read(HASHES)) if storage and storage.exists(HASHES) else {}
        self._is_saved = True
        self.seconds = 0.0

    def looks(self, config: AnySource, items: Sequence[SourceItem]) -> Looks:
        """Return the hashes of a source's items."""
        known = self._sets.setdefault(_name(config), {})
        missing = [item for item in items if item.key not in known]
        start = monotonic()
        known.update(_hash_all(config, missing))
        self._is_saved = self._is_saved and not missing
        self.seconds += monotonic() - start
        found = [known[item.key] for item in items]
        hashes = [value if isinstance(value, bytes) else None for value in found]
        whole = b"".join(value or bytes(HASH_BYTES) for value in hashes)
        return Looks(
            hashes=np.frombuffer(whole, np.uint64).reshape(-1, 4),
            there=np.array([value is not None for value in hashes], bool),
            unreadable={row: value for row, value in enumerate(found) if isinstance(value, str)},
        )

    def save(self, storage: Storage) -> None:
        """Write the hashes to a run directory if there are new ones."""
        if self._is_saved:
            return
        import pyarrow as pa

        rows = [(name, key, value) for name, known in self._sets.items() for key, value in known.items()]
        names, keys, values = (list(column) for column in zip(*rows, strict=True))
        table = pa.table(
            {
                "source": pa.array(names),
                "key": pa.array(keys),
                "hash": pa.array([each if isinstance(each, bytes) else None for each in values], pa.binary(HASH_BYTES)),
                "reason": pa.array([each if isinstance(each, str) else None for each in values], pa.string()),
            }
        )
        storage.write(HASHES, parquet_bytes(table))
        self._is_saved = True


def _hash_all(config: AnySource, items: Sequence[SourceItem]) -> Iterator[tuple[str, bytes | str | None]]:
    if not items:
        return
    logger.info(
        "plan: looking for near-duplicates among %s images of %s, once a run (data.near_duplicates: off leaves it out)",
        f"{len(items):,}",
        getattr(config, "path", config.kind),
    )
    blocks = [items[start : start + IMAGES_PER_TASK] for start in range(0, len(items), IMAGES_PER_TASK)]
    start = said = monotonic()
    done = 0
    with ThreadPoolExecutor() as pool:
        for block in pool.map(partial(_hash_block, config), blocks):
            yield from block.items()
            done += len(block)
            if (now := monotonic()) - said > SAY_EVERY_S:
                said = now
                left = (now - start) / done * (len(items) - done)
                logger.info("plan: %s of %s images, about %.0f s left", f"{done:,}", f"{len(items):,}", left)


def _hash_block(config: AnySource, items: Sequence[SourceItem]) -> Known:
    # Of its own: not every source may be read by two threads.
    source = open_source(config)
    found: Known = {}
    for item in items:
        try:
            found[item.key] = image_hash(source.read(item))
        except UnreadableItemError as error:
            found[item.key] = error.reason
    return found


def _name(config: AnySource) -> str:
    # Pictures look alike in every colour and range.
    said = config.model_dump_json(exclude={"colour", "value_range"})
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


def _read(data: bytes) -> dict[str, Known]:
    import pyarrow.parquet as pq

    sets: dict[str, Known] = {}
    columns = pq.read_table(io.BytesIO(data)).to_pydict()
    # An older file has no reasons.
    reasons = columns.get("reason") or [None] * len(columns["key"])
    for name, key, value, reason in zip(columns["source"], columns["key"], columns["hash"], reasons, strict=True):
        sets.setdefault(name, {})[key] = value or reason
    return sets
