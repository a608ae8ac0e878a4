"""Shards as blocks of Ray Data, each one row of one block.

Ray may split and merge blocks between rows, never within one, so no setting of Ray can tear a shard apart.
"""

from collections.abc import Callable

import pandas as pd

from cluster.dataflow.shard_row import ShardRow
from cluster.session.worker import error_context
from engine.errors import RunError
from engine.shards.marker import Marker

Read = Callable[[], ShardRow]


def to_block(row: ShardRow) -> pd.DataFrame:
    """Return a shard as a block of one row, in which Ray keeps the object itself."""
    return pd.DataFrame({"shard": pd.Series([row], dtype=object)})


def from_block(block: pd.DataFrame) -> ShardRow:
    """Return the shard in a block of one row."""
    if len(block) != 1:
        raise RunError(f"a block holds {len(block)} shards, there must be exactly one: this is a bug in the dataflow")
    row: ShardRow = block["shard"].iloc[0]
    return row


def read_block(shard: int, read: Read) -> list[pd.DataFrame]:
    """Read one shard in a task."""
    with error_context(f"the reading of shard {shard}"):
        return [to_block(read())]


def commit_block(block: pd.DataFrame, commit: Callable[[ShardRow], Marker]) -> pd.DataFrame:
    """Commit a shard in a task, and return its marker alone. Ray names the operator after this function."""
    row = from_block(block)
    with error_context(f"the commit of shard {row.shard}"):
        return pd.DataFrame({"marker": [commit(row).to_json()]})
