"""The items of a source, the Source protocol, keys, and checked reading of files."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from string import ascii_lowercase, digits
from typing import Literal, Protocol, runtime_checkable

from engine.errors import SourceError
from engine.runfile.data import AnySource

Reason = Literal[
    "missing_file", "outside_root", "not_a_file", "empty_file", "too_large", "unreadable_image", "value_range"
]

MAX_FILE_BYTES = 256 * 2**20
MAX_SLUG = 40  # with 16 digits and an edit's suffix a key stays under the 100 characters of a USTAR name

_NOT_SLUG = re.compile(r"[^a-z0-9]+")
_SUFFIXES = re.compile(rb"\.[^./\n]*$", re.MULTILINE)
_KEPT = (ascii_lowercase + digits + "\n").encode()
_SLUG_BYTES = bytes(code if code in _KEPT else ord("-") for code in bytes(range(256)).lower())


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceItem:
    """One labelled image of a source, without its bytes.

    `locator` names the bytes in the source ("cats/1.jpg", "a.tar#1536:20480"). Items with the same `split_key` (a
    person, a product) are in the same split.
    """

    key: str
    split_key: str
    label: int
    class_name: str
    locator: str
    caption: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemColumns:
    """Many items as columns: row i of each column is item i, with class names instead of labels."""

    key: Sequence[str]
    split_key: Sequence[str]
    class_name: Sequence[str]
    locator: Sequence[str]
    caption: Sequence[str]
    attributes: Sequence[Mapping[str, str]]


class Source(Protocol):
    """List labelled images and read them again one by one, here or in another process."""

    @property
    def config(self) -> AnySource:
        """Return the configuration that the source was opened with."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Return what the listing left out, a line each; complete once everything is listed."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names; a label is an index into them."""
        ...

    def items(self) -> Iterator[SourceItem]:
        """Yield every item, in any order; raise SourceError where the listing cannot be used."""
        ...

    def read(self, item: SourceItem) -> bytes:
        """Return the encoded image; raise UnreadableItemError where this one item cannot be read."""
        ...


@runtime_checkable
class InColumns(Protocol):
    """A source that lists many items as columns; its `classes` are known after the listing."""

    def columns(self) -> Iterator[ItemColumns]:
        """Yield the items in batches of columns."""
        ...


@runtime_checkable
class WithMasks(Protocol):
    """A source that can tell which pixels of an image are its object, where `has_masks`."""

    @property
    def has_masks(self) -> bool:
        """Return whether the source names any mask."""
        ...

    def mask(self, item: SourceItem) -> bytes:
        """Return the encoded mask of an image, white where its object is; raise UnreadableItemError for none."""
        ...


class UnreadableItemError(Exception):
    """One item that cannot be read; the caller turns it into a Rejection."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def make_key(path: str) -> str:
    """Return the key of a relative path: its slug and a hash, independent of other files.

    The hash has 16 digits instead of 8 where the slug is shortened (long or non-Latin names).
    """
    stem, dot, suffix = path.rpartition(".")
    if not dot or "/" in suffix:
        stem = path
    slug = _NOT_SLUG.sub("-", stem.lower()).strip("-")
    if 0 < len(slug) <= MAX_SLUG and path.isascii():
        return f"{slug}-{blake2b(path.encode(), digest_size=4).hexdigest()}"
    digest = blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return f"{slug[-MAX_SLUG:].lstrip('-') or 'image'}-{digest}"


def make_keys(paths: Sequence[str]) -> list[str]:
    """Return `make_key` of each path, in half the time of single calls."""
    started = blake2b(digest_size=4)
    keys = []
    for path, slug in zip(paths, _slugs(paths), strict=True):
        if 0 < len(slug) <= MAX_SLUG and path.isascii():
            hasher = started.copy()
            hasher.update(path.encode())
            keys.append(f"{slug}-{hasher.hexdigest()}")
        else:
            keys.append(make_key(path))
    return keys


def _slugs(paths: Sequence[str]) -> list[str]:
    """Return the slug of each path that is ASCII, anything for another, "" for all where one holds a line break."""
    text = "\n".join(paths).encode("ascii", "replace")
    if text.count(b"\n") != len(paths) - 1:
        return [""] * len(paths)
    text = _SUFFIXES.sub(b"", text).translate(_SLUG_BYTES)
    while b"--" in text:
        text = text.replace(b"--", b"-")
    return text.replace(b"-\n", b"\n").replace(b"\n-", b"\n").strip(b"-").decode().split("\n")


def read_inside(root: str, locator: str) -> bytes:
    """Return a file's bytes; refuse what leaves `root` (a link, `..`), is no plain file, is empty or too large."""
    path = os.path.realpath(os.path.join(root, locator))
    if os.path.commonpath((root, path)) != root:
        raise UnreadableItemError("outside_root", f"{locator} leads to {path}, outside of {root}")
    try:
        if not os.path.isfile(path):
            known = os.path.exists(path)
            detail = f"{locator} is not a plain file" if known else f"{locator} does not exist in {root}"
            raise UnreadableItemError("not_a_file" if known else "missing_file", detail)
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except PermissionError as error:
        raise UnreadableItemError("missing_file", f"{locator} may not be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise UnreadableItemError("missing_file", f"{locator!r} is not a file name: {error}") from error
    return check_size(data, locator)


def check_size(data: bytes, locator: str) -> bytes:
    """Return the bytes of an item; refuse none and too many."""
    if not data:
        raise UnreadableItemError("empty_file", f"{locator} has 0 bytes")
    if len(data) > MAX_FILE_BYTES:
        raise UnreadableItemError("too_large", f"{locator} has more than {MAX_FILE_BYTES >> 20} MiB")
    return data


def local_folder(path: str, field_name: str = "path") -> str:
    """Return the real path of a folder that exists."""
    if "://" in path:
        raise SourceError(
            f"{path}: sources are read from local or mounted disks; copy or mount it and name that folder"
        )
    if not os.path.exists(path):
        raise SourceError(f"source folder not found: {path}; correct `{field_name}` (it is relative to the run file)")
    if not os.path.isdir(path):
        raise SourceError(f"{path} is a file, `{field_name}` needs a folder")
    return os.path.realpath(path)
