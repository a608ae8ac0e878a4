"""Bytes on their way into a file: gathered into blocks, which are written while the next ones are made and hashed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from blake3 import blake3

# A block takes some 1 ms to hash and 2 to write, and 0.1 to be handed to the thread that writes.
BLOCK_BYTES = 4 << 20
MAX_AHEAD = 2
# Memory for blocks, used again: what a process never used takes four times as long to write into.
SPARE: deque[bytearray] = deque(maxlen=MAX_AHEAD + 1)


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """Name the content of a file: its BLAKE3 in hex, as `b3sum` prints it, and its size."""

    blake3: str
    size_bytes: int


def send(pieces: Iterable[bytes | memoryview], write: Callable[[memoryview], object]) -> StoredFile:
    """Write all the pieces in their order, and return the hash of the whole.

    A thread writes while the next pieces are made and hashed. It gets the interpreter for its next block while this
    thread hashes one, which needs none. At most MAX_AHEAD blocks wait for it.
    """
    hasher, size = blake3(), 0
    ahead: deque[tuple[memoryview, Future[object]]] = deque()
    with ThreadPoolExecutor(1) as writing:
        for block in _blocks(pieces):
            ahead.append((block, writing.submit(write, block)))
            hasher.update(block)
            size += len(block)
            if len(ahead) > MAX_AHEAD:
                _finish(*ahead.popleft())
        while ahead:
            _finish(*ahead.popleft())
    return StoredFile(blake3=hasher.hexdigest(), size_bytes=size)


def hash_file(read: Callable[[int], bytes]) -> StoredFile:
    """Return the hash of a file that `read` gives by blocks of so many bytes, to an empty one at its end."""
    hasher, size = blake3(), 0
    while block := read(BLOCK_BYTES):
        hasher.update(block)
        size += len(block)
    return StoredFile(blake3=hasher.hexdigest(), size_bytes=size)


def _finish(block: memoryview, written: Future[object]) -> None:
    written.result()
    if isinstance(block.obj, bytearray):
        SPARE.append(block.obj)


def _blocks(pieces: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
    """Yield the pieces in blocks: each call would wait anew for the interpreter, which the maker of pieces holds."""
    block, filled = _memory(), 0
    for piece in pieces:
        if filled and filled + len(piece) > BLOCK_BYTES:
            yield block[:filled]
            block, filled = _memory(), 0
        if len(piece) > BLOCK_BYTES:
            yield memoryview(piece)
        else:
            block[filled : filled + len(piece)] = piece
            filled += len(piece)
    if filled:
        yield block[:filled]


def _memory() -> memoryview:
    try:
        return memoryview(SPARE.pop())
    except IndexError:
        return memoryview(bytearray(BLOCK_BYTES))
