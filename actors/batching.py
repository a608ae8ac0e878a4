"""Batches of one fixed shape, so that a row's result does not depend on how many neighbours it has."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

Row = TypeVar("Row")


def padded_batches(rows: Sequence[Row], size: int) -> Iterator[tuple[list[Row], int]]:
    """Yield batches of exactly `size` rows with the number of real ones; the last row is repeated to fill up."""
    for start in range(0, len(rows), size):
        batch = list(rows[start : start + size])
        count = len(batch)
        yield batch + [batch[-1]] * (size - count), count
