"""Batches of one fixed shape, so that a row's result does not depend on how many neighbours it has, made ahead."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Row = TypeVar("Row")
Item = TypeVar("Item")


def padded_batches(rows: Sequence[Row], size: int) -> Iterator[tuple[list[Row], int]]:
    """Yield batches of exactly `size` rows with the number of real ones; the last row is repeated to fill up."""
    for start in range(0, len(rows), size):
        batch = list(rows[start : start + size])
        count = len(batch)
        yield batch + [batch[-1]] * (size - count), count


def prepared_batches(
    rows: Sequence[Row], size: int, prepare: Callable[[Row], Item], num_threads: int
) -> Iterator[list[Item]]:
    """Yield what `prepare` makes of the rows, `size` at a time; threads are at the next ones while these are used.

    What threads make is decoded and resized images, no sums: no byte depends on their number.
    """
    with ThreadPoolExecutor(num_threads, thread_name_prefix="prepare") as pool:
        batches = (list(pool.map(prepare, rows[start : start + size])) for start in range(0, len(rows), size))
        yield from ahead(batches, 1)


def ahead(items: Iterator[Item], count: int) -> Generator[Item]:
    """Yield the same items, the next `count` of them prepared by a thread meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        waiting = deque(pool.submit(lambda: list(itertools.islice(items, 1))) for _ in range(count))
        while item := waiting.popleft().result():
            waiting.append(pool.submit(lambda: list(itertools.islice(items, 1))))
            yield item[0]
