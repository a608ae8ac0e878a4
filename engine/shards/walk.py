"""Walk a shard from header to header: what each sample says of itself, and its image only where it is asked for.

Images are most of a shard. On a local disk they stay there, so that a walk reads a few percent of the file.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial

from engine.errors import RunError, ShardError
from engine.sample import Sample
from engine.shards.record import sample_from_json
from engine.shards.tar import BLOCK_BYTES, RECORD_BYTES, whole_blocks
from engine.storage.storage import Storage

# What stands between two images, the JSON of a sample and the headers around it, is read at once.
WINDOW_BYTES = 16 * BLOCK_BYTES
END = bytes(BLOCK_BYTES)
NAME_BYTES = 100
# A class index takes one block, so the first two headers of a sample are three blocks.
HEAD_BYTES = 3 * BLOCK_BYTES
Read = Callable[[int, int], bytes]  # offset and size to bytes: fewer at the end of the file
Image = Callable[[], bytes]
State = tuple[int, int, int]  # of a file: inode, size and time

# A shuffle holds images of more shards than a process may hold files.
FILES_HELD = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Hold one sample of a shard: its key, its class index and its JSON as written, and how to get its image.

    `image` returns the encoded bytes; raises RunError, and ShardError where the file was replaced since.
    """

    key: str
    label: int
    record: bytes
    image: Image

    def sample(self) -> Sample:
        """Return the sample without its image; raises ShardError where the JSON is not one."""
        try:
            return sample_from_json(self.record, b"")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _damaged(f"the JSON of sample {self.key}", str(error)) from error


class Shard:
    """Give the samples of one shard. From an object store it is read whole when this is made, once for all of them."""

    def __init__(self, storage: Storage, path: str) -> None:
        self._name = storage.name(path)
        self._path = str(storage.local_path(path)) if storage.is_local else ""
        self._content = b"" if storage.is_local else storage.read(path)

    def entries(self) -> Iterator[Entry]:
        """Yield the samples in the order of the file.

        Raises FileNotFoundError, RunError, and ShardError as soon as it comes to where the file is damaged.
        """
        try:
            if self._path:
                with _failures(self._path):
                    file = _OpenFile(self._path)
                    yield from self._entries_on_disk(file.descriptor)
            else:
                content = self._content
                # Each image is a copy: it outlives the others, which are then let go.
                yield from self._entries(
                    lambda offset, size_bytes: content[offset : offset + size_bytes],
                    len(content),
                    lambda offset, size_bytes: partial(bytes, content[offset : offset + size_bytes]),
                )
        except ValueError as error:
            raise _damaged(self._name, str(error)) from error

    def _entries_on_disk(self, descriptor: int) -> Iterator[Entry]:
        state = _state(descriptor)

        def image(offset: int, size_bytes: int) -> Image:
            return partial(_image_on_disk, self._path, state, offset, size_bytes)

        read = _windowed(lambda offset, size_bytes: os.pread(descriptor, size_bytes, offset))
        yield from self._entries(read, os.fstat(descriptor).st_size, image)

    def _entries(self, read: Read, size_bytes: int, image: Callable[[int, int], Image]) -> Iterator[Entry]:
        offset = 0
        while not (head := read(offset, HEAD_BYTES)).startswith(END):
            key = head[: head.index(b".")]
            label_size = _member_size(head, 0, key + b".cls")
            extension = b".png" if head.startswith(key + b".png", 2 * BLOCK_BYTES) else b".jpg"
            image_size = _member_size(head, 2 * BLOCK_BYTES, key + extension)
            image_at = offset + HEAD_BYTES
            record_at = image_at + whole_blocks(image_size)
            record_size = _member_size(read(record_at, BLOCK_BYTES), 0, key + b".json")
            record = read(record_at + BLOCK_BYTES, record_size)
            offset = record_at + BLOCK_BYTES + whole_blocks(record_size)
            if len(record) < record_size:
                raise ValueError("the end is missing")
            yield Entry(
                key=key.decode("ascii"),
                label=int(head[BLOCK_BYTES : BLOCK_BYTES + label_size]),
                record=record,
                image=image(image_at, image_size),
            )
        rest = read(offset, size_bytes - offset)
        if size_bytes % RECORD_BYTES or len(rest) < 2 * BLOCK_BYTES or any(rest):
            raise ValueError("the end is missing")


def _member_size(header: bytes, start: int, name: bytes) -> int:
    """Return the size of the member whose header begins at `start`; ValueError where it is none of this name."""
    is_named = header[start : start + NAME_BYTES] == name.ljust(NAME_BYTES, b"\0")
    if not is_named or not header.startswith(b"ustar", start + 257):
        raise ValueError(f"{name.decode('ascii', 'replace')} is missing")
    return int(header[start + 124 : start + 135], 8)


def _windowed(read: Read) -> Read:
    """Return the same, in fewer and larger reads, for one who goes forward in small steps."""
    start, window = 0, b""

    def part(offset: int, size_bytes: int) -> bytes:
        nonlocal start, window
        if not 0 <= offset - start <= len(window) - size_bytes:
            start, window = offset, read(offset, max(size_bytes, WINDOW_BYTES))
        return window[offset - start : offset - start + size_bytes]

    return part


class _OpenFile:
    """Hold a file open for reading until nobody holds this."""

    descriptor = -1

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


@lru_cache(maxsize=FILES_HELD)
def _open_again(path: str, state: State) -> _OpenFile:
    """Return a file that was walked, open: as long as it is held, other bytes of that name are another file."""
    file = _OpenFile(path)
    if _state(file.descriptor) != state:
        raise ShardError(f"{path} was replaced while it was read: start the same command again")
    return file


def _state(descriptor: int) -> State:
    """Return what tells a file from another one of its name."""
    found = os.fstat(descriptor)
    return found.st_ino, found.st_size, found.st_mtime_ns


def _image_on_disk(path: str, state: State, offset: int, size_bytes: int) -> bytes:
    with _failures(path):
        file = _open_again(path, state)  # held while it is read: other threads may crowd it out meanwhile
        content = os.pread(file.descriptor, size_bytes, offset)
    if len(content) < size_bytes:
        raise _damaged(path, "its end is missing")
    return content


@contextmanager
def _failures(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}: check the disk, then start again") from error


def _damaged(name: str, reason: str) -> ShardError:
    return ShardError(f"{name} is damaged ({reason}): `counterforge verify` lists all damaged files")
