"""Storage: files under one root, on a local disk or in an object store, written atomically."""

import errno
import os
import re
import secrets
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import DiskFullError, RunError
from engine.storage.blocks import StoredFile, hash_file, send
from engine.storage.object_store import create_object, delete_object, object_size, open_remote, read_object, remedy

if TYPE_CHECKING:
    import pyarrow.fs

FULL = (errno.ENOSPC, errno.EDQUOT)
TEMPORARY = re.compile(r"^\..+\.tmp~(?P<host>.+)~(?P<pid>\d+)~[0-9a-f]+$")


class Storage:
    """Read and write whole files below `root`: a folder, or a URI (s3://, gs://, file://).

    Paths are relative, with slashes. Raises RunError, naming path and remedy, where the disk is full, a permission is
    missing or a store does not answer, and FileNotFoundError for a missing file.
    """

    def __init__(self, root: str) -> None:
        self.is_local = "://" not in root or root.startswith("file://")
        self._remote: pyarrow.fs.FileSystem | None = None
        if self.is_local:
            # Absolute, since worker processes have other working directories.
            self.root = self._base = os.path.abspath(root.removeprefix("file://"))
        else:
            self.root = root
            self._remote, self._base = open_remote(root)

    def __str__(self) -> str:
        """Return the root for messages, without the options and secrets of a URI."""
        return self._base if self.is_local else f"{self.root.split('://')[0]}://{self._base}"

    def local_path(self, path: str) -> Path:
        """Return the local path of `path`; RunError on an object store."""
        if not self.is_local:
            raise RunError(f"{self.name(path)} is not on a local disk: copy it here first")
        return Path(self._base, path)

    def name(self, path: str) -> str:
        """Return the full name of `path`, for messages."""
        return f"{self}/{path}" if path else str(self)

    def read(self, path: str) -> bytes:
        """Return the content of a file."""
        with self._failures(path, "read"):
            if self._remote is None:
                return self.local_path(path).read_bytes()
            return read_object(self.root, path)

    def digest(self, path: str) -> StoredFile:
        """Return hash and size of a stored file, read block by block."""
        with self._failures(path, "read"), self._open(path) as stream:
            return hash_file(stream.read)

    def write(self, path: str, data: bytes | Iterable[bytes | memoryview], *, synced: bool = True) -> StoredFile:
        """Write or replace a file atomically, and return its hash and size; `data` may be an iterable of pieces.

        Local: temporary name in the same folder, fsync, rename, fsync of the folder. Object store: one upload, visible
        when it is complete. `synced=False` skips fsync: the file survives a process crash, not a power loss.
        """
        pieces = [data] if isinstance(data, bytes) else data
        with self._failures(path, "write"):
            if self._remote is None:
                with self._temporary(path, pieces, synced=synced) as (temporary, final, stored):
                    os.replace(temporary, final)
                return stored
            # No `with`: leaving one by an exception would complete the upload of a torn file (apache/arrow#40502).
            stream = self._remote.open_output_stream(f"{self._base}/{path}")
            stored = send(pieces, stream.write)
            stream.close()
            return stored

    def create(self, path: str, data: bytes) -> bool:
        """Write a file atomically if it is absent; return whether this call created it.

        Of two concurrent writers one gets True. After a lost response of an object store both may get False; the file
        then has the content of one of them.
        """
        if self._remote is not None:
            with self._failures(path, "write"):
                return create_object(self.root, path, data)
        if self.exists(path):
            return False
        with self._failures(path, "write"), self._temporary(path, [data]) as (temporary, final, _):
            return _link(temporary, final)

    def exists(self, path: str) -> bool:
        """Return whether the file exists."""
        return self.size(path) is not None

    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes, None if it is missing."""
        with self._failures(path, "read"):
            if self._remote is None:
                local = self.local_path(path)
                return local.stat().st_size if local.is_file() else None
            return object_size(self.root, path)

    def list(self, folder: str, suffix: str = "") -> list[str]:
        """Return the sorted names in a folder that end in `suffix`, without unfinished files; empty if missing."""
        with self._failures(folder, "read"):
            return sorted(name for name in self._names(folder) if name.endswith(suffix) and not TEMPORARY.match(name))

    def delete(self, path: str) -> None:
        """Delete a file if it exists."""
        with self._failures(path, "delete"):
            if self._remote is None:
                self.local_path(path).unlink(missing_ok=True)
            else:
                delete_object(self.root, path)

    def unfinished(self, folder: str) -> Sequence[str]:
        """Return the names of temporary files in a folder, of living and of dead writers."""
        return [name for name in self._names(folder) if TEMPORARY.match(name)] if self.is_local else []

    def sweep(self, folder: str, *, everyone: bool = False) -> None:
        """Delete temporary files of dead processes of this machine in a folder. Object stores have none.

        `everyone`: also those of living processes and of other machines; only for folders without writers.
        """
        import psutil

        for name in self.unfinished(folder):
            match = TEMPORARY.match(name)
            is_dead = match and match["host"] == socket.gethostname() and not psutil.pid_exists(int(match["pid"]))
            if everyone or is_dead:
                (self.local_path(folder) / name).unlink(missing_ok=True)

    def _open(self, path: str) -> "pyarrow.fs.NativeFile":
        if self._remote is None:
            return self.local_path(path).open("rb")
        return self._remote.open_input_stream(f"{self._base}/{path}")

    def _names(self, folder: str) -> Iterator[str]:
        if self._remote is None:
            path = self.local_path(folder)
            if path.is_dir():
                yield from os.listdir(path)
            return
        import pyarrow.fs

        selector = pyarrow.fs.FileSelector(f"{self._base}/{folder}".rstrip("/"), allow_not_found=True)
        yield from (info.base_name for info in self._remote.get_file_info(selector))

    @contextmanager
    def _temporary(
        self, path: str, pieces: Iterable[bytes | memoryview], *, synced: bool = True
    ) -> Iterator[tuple[Path, Path, StoredFile]]:
        """Yield a finished temporary file, its final name and its hash; the folder is synced after the body."""
        final = self.local_path(path)
        if not final.parent.is_dir():
            final.parent.mkdir(parents=True, exist_ok=True)
            _sync_folder(final.parent.parent)
        unique = f"{socket.gethostname()}~{os.getpid()}~{secrets.token_hex(4)}"
        temporary = final.with_name(f".{final.name}.tmp~{unique}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                stored = send(pieces, partial(_write_all, descriptor))
                if synced:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            yield temporary, final, stored
        finally:
            temporary.unlink(missing_ok=True)
        if synced:
            _sync_folder(final.parent)

    @contextmanager
    def _failures(self, path: str, action: str) -> Iterator[None]:
        """Turn an OSError into a RunError that names file and remedy."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            what = f"cannot {action} {self.name(path)}: {error.strerror or error}"
            if self.is_local and error.errno in FULL:
                raise DiskFullError(f"{what}: {_remedy(error.errno)}") from error
            raise RunError(f"{what}: {_remedy(error.errno) if self.is_local else remedy(error)}") from error


def _write_all(descriptor: int, rest: memoryview) -> None:
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _link(temporary: Path, final: Path) -> bool:
    """Rename a finished file only if the final name is free; return whether it was."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        # No hard links (FUSE, exFAT): the caller has checked that the name is free; a race remains.
        os.replace(temporary, final)
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remedy(number: int | None) -> str:
    match number:
        case errno.ENOSPC | errno.EDQUOT:
            return "free some space, then start the same command again: it goes on where it stopped"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "give yourself permission to it, or choose another folder with --out"
        case errno.ENOTDIR | errno.EISDIR | errno.EEXIST:
            return "a file is in the way of a folder of that name: move it, or choose another folder with --out"
        case _:
            return "check the disk, then start the same command again: it goes on where it stopped"
