"""Batches of one fixed shape, so that the result of a row does not depend on its neighbours, prepared ahead."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from actors.models.untyped import Tensors, Tokenizer

Row = TypeVar("Row")
Item = TypeVar("Item")


def padded_batches(rows: Sequence[Row], size: int) -> Iterator[tuple[list[Row], int]]:
    """Yield batches of exactly `size` rows with the number of real ones; the last row is repeated to fill up."""
    for start in range(0, len(rows), size):
        batch = list(rows[start : start + size])
        count = len(batch)
        yield batch + [batch[-1]] * (size - count), count


def padded_tokens(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> Tensors:
    """Return the tokens of texts, cut or padded to one length: a result must not depend on the longest neighbour."""
    return tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")


def prepared_batches(
    rows: Sequence[Row], size: int, prepare: Callable[[Row], Item], num_threads: int
) -> Iterator[list[Item]]:
    """Yield the prepared rows, `size` at a time, while threads prepare the next ones.

    `prepare` decodes and resizes images; the bytes of its results do not depend on the number of threads.
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
