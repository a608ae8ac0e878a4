"""The folder of a local Ray session's sockets, logs and spilled objects: a short path, writable, with space."""

import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from engine.errors import PlacementError
from engine.wording import size

# The longest path below the folder; a process id has at most seven digits.
SOCKET = "/session_2026-12-31_23-59-59_999999_1234567/sockets/plasma_store"
# Of an address in sockaddr_un, without its last zero byte.
MAX_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
MIN_FREE_BYTES = 10**6
SHORT = "/tmp/ray"  # nosec B108 # Ray's own default, with a random name for each session


@dataclass(frozen=True, kw_only=True)
class RayFolder:
    """The folder of Ray's sockets and logs. `spill` is that of spilled objects where it is another one, with a note."""

    path: str
    spill: str | None = None
    note: str | None = None


def ray_folder() -> RayFolder:
    """Return the folder that RAY_TMPDIR or TMPDIR asks for, or /tmp/ray where TMPDIR is too long for a socket.

    PlacementError where the folder cannot be used; writes nothing.
    """
    name = next((each for each in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(each)), "")
    wanted = os.path.join(os.environ.get(name) or "/tmp", "ray")  # nosec B108 # as Ray does
    origin = f"{name}={os.environ[name]}" if name else wanted
    _check(wanted, origin)
    longest = len(os.fsencode(wanted + SOCKET))
    if longest <= MAX_SOCKET_BYTES:
        return RayFolder(path=wanted)
    fits = MAX_SOCKET_BYTES - len(f"/ray{SOCKET}")
    too_long = f"{origin} has {len(os.fsencode(os.environ[name]))} bytes, Ray's sockets leave room for {fits}"
    if name == "RAY_TMPDIR":
        raise PlacementError(f"{too_long}: set a shorter one, such as RAY_TMPDIR=/tmp")
    _check(SHORT, f"{too_long}, and {SHORT}, which is used instead,")
    return RayFolder(path=SHORT, spill=wanted, note=f"{too_long}: they and Ray's logs go to {SHORT}")


def _check(folder: str, origin: str) -> None:
    """Raise PlacementError unless files can be made in the folder, or in the first of its parents that exists."""
    there = next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
    remedy = "set RAY_TMPDIR to a folder that can be written, such as RAY_TMPDIR=/tmp"
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise PlacementError(f"{origin}: Ray cannot write in {there} ({error.strerror}): {remedy}") from error
    if (free := shutil.disk_usage(there).free) < MIN_FREE_BYTES:
        raise PlacementError(f"{origin}: {there} has {size(free)} free, Ray's logs need more: {remedy}, or make room")
