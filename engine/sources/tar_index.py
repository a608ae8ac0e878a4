"""The index of a tar: plain headers are parsed directly, faster than by tarfile, which parses the others."""

import os
import tarfile
from collections.abc import Generator, Iterator
from typing import BinaryIO, NamedTuple

from engine.errors import SourceError

BLOCK = 512
PIECE = 2**20
END = bytes(BLOCK)
FILE_TYPES = (b"0", b"\0")
POSIX, GNU = b"ustar\x0000", b"ustar  \0"


class Member(NamedTuple):
    """Name and position of one member; `is_file` is false for links, devices and sparse files."""

    name: str
    offset: int
    size: int
    is_file: bool


def members(file: BinaryIO, name: str) -> Iterator[Member]:
    """Yield the members of a tar without folders, and those of tars that were joined to it (`cat a.tar b.tar`).

    Raises SourceError unless it is complete and uncompressed.
    """
    size = os.fstat(file.fileno()).st_size
    start: int | None = 0
    while start is not None:
        end = yield from _members_of_one(file, start, size, name)
        start = _next_tar(file, end, size, name)


def _members_of_one(file: BinaryIO, start: int, size: int, name: str) -> Generator[Member, None, int]:
    """Yield the members of the tar that begins at `start`, and return where its end begins."""
    offset = start
    while member := _plain_member(os.pread(file.fileno(), BLOCK, offset), offset):
        _check_end(member, size, name)
        yield member
        offset = member.offset + -(-member.size // BLOCK) * BLOCK
    if os.pread(file.fileno(), BLOCK, offset) != END or offset == start:
        return (yield from _unusual_members(file, offset, size, name))
    return offset


def _next_tar(file: BinaryIO, end: int, size: int, name: str) -> int | None:
    """Return where a header follows the zeros of a tar's end, None where none does."""
    while end < size:
        piece = os.pread(file.fileno(), PIECE, end)
        rest = piece.lstrip(b"\0")
        if not rest:
            end += len(piece)
            continue
        start = end + len(piece) - len(rest)
        try:
            tarfile.TarInfo.frombuf(os.pread(file.fileno(), BLOCK, start), "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise SourceError(
                f"{name} is damaged or something else was joined to it: {size - start} bytes behind its end, from byte "
                f"{start} on, are no tar; copy it again, or cut them off (truncate -s {start})"
            ) from error
        return start
    return None


def _plain_member(block: bytes, offset: int) -> Member | None:
    """Return the plain file that a header describes, None for the end and for other members."""
    magic = block[257:265]
    if len(block) < BLOCK or magic not in (POSIX, GNU) or block[156:157] not in FILE_TYPES:
        return None
    digits = block[124:136].rstrip(b" \0")
    if not digits.isdigit():  # 8 GiB and more, in binary
        return None
    name = block[:100].rstrip(b"\0")
    if magic == POSIX and block[345]:
        name = block[345:500].rstrip(b"\0") + b"/" + name
    return Member(name.decode("utf-8", "surrogateescape"), offset + BLOCK, int(digits, 8), True)


def _unusual_members(file: BinaryIO, offset: int, size: int, name: str) -> Generator[Member, None, int]:
    """Yield the members from `offset` on as tarfile reads them (long names, folders, links), and return their end."""
    file.seek(offset)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                tar.members = []  # type: ignore[attr-defined]  # it keeps every header otherwise: 1 KB each
                if not info.isdir():
                    member = Member(info.name, info.offset_data, info.size, info.isreg() and not info.issparse())
                    _check_end(member, size, name)
                    yield member
                file.seek(tar.offset)
            end = tar.offset
    except tarfile.TarError as error:
        raise SourceError(f"{name} is not a whole, uncompressed tar: {error}") from error
    # tarfile takes a damaged header for the end.
    if any(os.pread(file.fileno(), BLOCK, end)) or end >= size:
        raise SourceError(f"{name} is damaged or cut off at byte {end}: copy it again")
    return end


def _check_end(member: Member, size: int, name: str) -> None:
    if member.offset + member.size > size:
        raise SourceError(f"{name} is cut off in member {member.name}: copy it again")
