"""The sources that get edits, and the shard of each, from the listing's columns."""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import SourceError
from engine.plan.listing import Listing
from engine.plan.splits import SPLITS
from engine.runfile.run import RunFile
from engine.sample import Split

NO_SHARD = -1

Integers = npt.NDArray[np.int64]

logger = logging.getLogger(__name__)


def assign(listing: Listing, run: RunFile) -> tuple[Integers, Integers]:
    """Return the row order of the plan and the shard of each of its rows; SourceError where none is left to edit."""
    train = _choose(listing, "train", run.data.num_sources)
    if not len(train):
        raise SourceError(
            f"no source is left to train on: {len(listing.label)} sources, data.splits.train is "
            f"{run.data.splits.train:g}; add images or raise data.splits.train"
        )
    validation = _choose(listing, "validation", run.data.num_validation_sources)
    size = run.shards.sources_per_shard
    num_train_shards = -(-len(train) // size)
    chosen = np.concatenate([train, validation])
    is_other = np.ones(len(listing.label), dtype=bool)
    is_other[chosen] = False
    others = _by_place(listing, np.flatnonzero(is_other))
    others = others[_stable_order(listing.split[others])]
    shard = np.concatenate(
        [
            np.arange(len(train)) // size,
            np.arange(len(validation)) // size + num_train_shards,
            np.full(len(others), NO_SHARD),
        ]
    )
    return np.concatenate([chosen, others]), shard


def _choose(listing: Listing, split: Split, number: int | None) -> Integers:
    """Return rows of a split, drawn evenly from the classes in hash order; their order mixes classes in each shard."""
    rows = np.flatnonzero(listing.split == SPLITS.index(split))
    if number is not None and number > len(rows):
        logger.warning(
            "%d sources of the %s split were asked for, there are %d: all get edits", number, split, len(rows)
        )
    # In order of place, which every stable sort that follows keeps among equals.
    rows = _by_place(listing, rows)
    label = listing.label[rows]
    by_class = _stable_order(label)
    ordered = label[by_class]
    rank = np.empty(len(rows), np.int64)
    rank[by_class] = np.arange(len(rows)) - np.searchsorted(ordered, ordered)
    if number is not None and number < len(rows):
        chosen = np.sort(_stable_order(rank)[:number])
        rows, label, rank = rows[chosen], label[chosen], rank[chosen]
    class_size = np.bincount(label, minlength=int(label.max()) + 1 if len(label) else 0)
    return rows[np.argsort((rank + 0.5) / class_size[label], kind="stable")]


def _by_place(listing: Listing, rows: Integers) -> Integers:
    """Return the rows sorted by place. Places are practically distinct, so the faster unstable sort suffices."""
    place = listing.place[rows]
    order = np.argsort(place)
    ordered = place[order]
    if (ordered[1:] == ordered[:-1]).any():
        order = np.argsort(place, kind="stable")
    return rows[order]


def _stable_order(values: npt.NDArray[np.integer[Any]]) -> Integers:
    """Return a stable argsort; values below 2**16 take a third of the time."""
    small = values.max(initial=0) < 2**16 and values.min(initial=0) >= 0
    return np.argsort(values.astype(np.uint16) if small else values, kind="stable")
