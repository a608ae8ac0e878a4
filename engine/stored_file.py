"""Bytes on their way into a file: gathered into blocks, which are hashed and written while the next ones are made."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

# A block takes some 3 ms to hash, and 0.1 ms to be handed to two threads.
BLOCK_BYTES = 4 << 20
MAX_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """Name the content of a file: its sha256 in hex and its size."""

    sha256: str
    size_bytes: int


def send(pieces: Iterable[bytes], write: Callable[[bytes], object]) -> StoredFile:
    """Write all the pieces in their order, and return the hash of the whole.

    One thread hashes and another one writes while the pieces are made: hashlib and the system let go of the interpreter
    for as long as they work on a block. At most MAX_AHEAD blocks wait for them.
    """
    hasher, size = hashlib.sha256(), 0
    ahead: deque[tuple[Future[None], Future[object]]] = deque()
    with ThreadPoolExecutor(1) as hashing, ThreadPoolExecutor(1) as writing:
        for block in _blocks(pieces):
            size += len(block)
            ahead.append((hashing.submit(hasher.update, block), writing.submit(write, block)))
            if len(ahead) > MAX_AHEAD:
                _finish(ahead.popleft())
        while ahead:
            _finish(ahead.popleft())
    return StoredFile(sha256=hasher.hexdigest(), size_bytes=size)


def _finish(futures: tuple[Future[None], Future[object]]) -> None:
    for future in futures:
        future.result()


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    gathered: list[bytes] = []
    size = 0
    for piece in pieces:
        gathered.append(piece)
        size += len(piece)
        # Joined, because each call would wait anew for the interpreter, which the maker of pieces holds.
        if size >= BLOCK_BYTES:
            yield b"".join(gathered)
            gathered, size = [], 0
    if gathered:
        yield b"".join(gathered)
