"""Object stores: opening one by its URI, and the one thing that pyarrow.fs cannot do there, creating what is absent.

A conditional upload (`If-None-Match: *` on S3, `ifGenerationMatch=0` on Google's) is made by obstore: pyarrow 26 has
none (apache/arrow#44281).
"""

import configparser
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from engine.errors import RunError

if TYPE_CHECKING:
    import pyarrow.fs
    from obstore.store import ObjectStore

# What AWS gives in its place is found by obstore itself: the environment, a web identity, the metadata of the machine.
PROFILE_KEYS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}


def open_remote(root: str) -> "tuple[pyarrow.fs.FileSystem, str]":
    """Return the file system of a URI and the path in it; RunError where there is none for it."""
    import pyarrow
    import pyarrow.fs

    try:
        filesystem, base = pyarrow.fs.FileSystem.from_uri(root)
    except (pyarrow.ArrowInvalid, OSError) as error:
        scheme = root.partition("://")[0]
        raise RunError(
            f"cannot open storage {scheme}://...: {error}: give a folder, or a URI such as s3://bucket/folder"
        ) from error
    return filesystem, base.rstrip("/")


def create_object(root: str, path: str, data: bytes) -> bool:
    """Upload an object only if there is none of that name; return whether this call made it.

    Of two that try at once one is told yes. After a lost answer the upload is tried again, and finds its own object:
    then the answer is no though it is there. Raises OSError, also for what obstore says is wrong.
    """
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError

    try:
        obstore.put(_open_store(root), path, data, mode="create")
    except AlreadyExistsError:
        return False
    except (BaseError, FileNotFoundError) as error:
        # The latter is a bucket that is not there. Its messages go on with the debug form of the same error.
        raise OSError(str(error).split("\n")[0]) from error
    return True


@cache
def _open_store(root: str) -> "ObjectStore":
    from obstore.store import from_url

    parts = urlsplit(root)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    url = f"{parts.scheme}://{parts.hostname}{parts.path}"
    if parts.scheme not in ("s3", "s3a"):
        return from_url(url)
    settings: dict[str, Any] = _profile()
    if parts.username:
        settings = {"access_key_id": unquote(parts.username), "secret_access_key": unquote(parts.password or "")}
    if region := options.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        settings["region"] = region
    else:
        import pyarrow.fs

        settings["region"] = pyarrow.fs.resolve_s3_region(parts.hostname)
    if endpoint := options.get("endpoint_override"):
        scheme = options.get("scheme", "https")
        settings |= {
            "endpoint": endpoint if "://" in endpoint else f"{scheme}://{endpoint}",
            "client_options": {"allow_http": scheme == "http"},
        }
    return from_url(url, **settings)


def _profile() -> dict[str, Any]:
    """Return the keys of ~/.aws/credentials, which pyarrow reads and obstore does not; those of the environment win."""
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return {}
    file = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or Path.home() / ".aws" / "credentials")
    profile = os.environ.get("AWS_PROFILE", "default")
    found = configparser.ConfigParser(interpolation=None)
    found.read(file)
    if not found.has_section(profile):
        return {}
    return {ours: found[profile][theirs] for theirs, ours in PROFILE_KEYS.items() if theirs in found[profile]}
