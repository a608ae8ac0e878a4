"""Writing and hashing in blocks: one thread writes a block while the next ones are made and hashed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from blake3 import blake3

# A block takes about 1 ms to hash, 2 ms to write and 0.1 ms to hand over to the writing thread.
BLOCK_BYTES = 4 << 20
MAX_AHEAD = 2
# Reused buffers: the first write into new memory takes four times as long.
SPARE: deque[bytearray] = deque(maxlen=MAX_AHEAD + 1)


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """BLAKE3 (hex, as `b3sum` prints it) and size of a file's content."""

    blake3: str
    size_bytes: int


def send(pieces: Iterable[bytes | memoryview], write: Callable[[memoryview], object]) -> StoredFile:
    """Write the pieces in order, and return hash and size of the whole.

    A thread writes while the next pieces are made and hashed; hashing releases the interpreter lock. At most MAX_AHEAD
    blocks wait to be written.
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
    """Return hash and size of a file; `read(n)` returns its next n bytes at most, none at the end."""
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
    """Yield the pieces joined into blocks: each write waits for the interpreter lock, so few large ones are faster."""
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
