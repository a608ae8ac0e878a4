"""Object stores: opening by URI, and the operations that pyarrow.fs lacks or does with several requests.

A conditional upload (`If-None-Match: *` on S3, `ifGenerationMatch=0` on Google's) is made by obstore: pyarrow 26 has
none (apache/arrow#44281). So are the operations on each file of each shard: pyarrow takes two requests for the size of
a missing file, two to read one and four to delete one.
"""

import configparser
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from engine.errors import RunError

if TYPE_CHECKING:
    import pyarrow.fs
    from obstore.store import ObjectStore

# Waits of up to 0.5, 1, 2, 4, ... 20 s between them: half a minute in all, on average.
MAX_ATTEMPTS = 8
# Codes as pyarrow and as S3 itself write them.
REMEDIES = (
    (
        ("ACCESS_DENIED", "AccessDenied", "403 Forbidden"),
        "these credentials may not do that in this bucket: they need to list, get, put and delete objects there; a "
        "wrong key looks the same to some requests",
    ),
    (
        ("INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
        "the key is wrong: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile that AWS_PROFILE names",
    ),
    (
        ("ExpiredToken", "EXPIRED_TOKEN", "TokenRefreshRequired"),
        "the credentials have expired: sign in again, then start the same command again: it goes on where it stopped",
    ),
    (("NO_SUCH_BUCKET", "NoSuchBucket"), "there is no such bucket: create it, or choose another with --out"),
    (
        ("SLOW_DOWN", "SlowDown", "status 503", "INTERNAL_FAILURE", "InternalError", "status 500"),
        "the store was busy at {attempts} attempts: start the same command again later, it goes on where it stopped; "
        "with fewer replicas it asks for less",
    ),
)
NO_REMEDY = "check the credentials, the bucket and the network"
# obstore itself finds the other credentials of AWS: environment, web identity, instance metadata.
PROFILE_KEYS = ("access_key_id", "secret_access_key", "session_token")


def open_remote(root: str) -> "tuple[pyarrow.fs.FileSystem, str]":
    """Return the file system of a URI and the path in it; RunError for an unknown scheme.

    On S3 throttled requests and 5xx are retried with exponential backoff.
    """
    import pyarrow
    import pyarrow.fs

    try:
        filesystem, base = pyarrow.fs.FileSystem.from_uri(root)
    except (pyarrow.ArrowInvalid, OSError) as error:
        scheme = root.partition("://")[0]
        raise RunError(
            f"cannot open storage {scheme}://...: {error}: give a folder, or a URI such as s3://bucket/folder"
        ) from error
    if filesystem.type_name == "s3":
        # A URI cannot set these. The default retries every 0.2 s for 6 s (pyarrow 26), too short for a busy bucket.
        filesystem = pyarrow.fs.S3FileSystem(
            retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=MAX_ATTEMPTS),
            allow_delayed_open=True,  # a small file is one request, not three
            **_s3_options(root),
        )
    return filesystem, base.rstrip("/")


def remedy(error: OSError) -> str:
    """Return the remedy for an error of an object store."""
    text = str(error)
    advice = next((advice for codes, advice in REMEDIES if any(code in text for code in codes)), NO_REMEDY)
    return advice.format(attempts=MAX_ATTEMPTS)


def create_object(root: str, path: str, data: bytes) -> bool:
    """Upload an object only if the name is free (conditional put); return whether this call created it.

    Of two concurrent calls one returns True. After a lost response the retry finds its own object and returns False.
    Raises OSError, also for the errors of obstore.
    """
    import obstore
    from obstore.exceptions import AlreadyExistsError

    with _failures():
        try:
            obstore.put(_open_store(root), path, data, mode="create")
        except AlreadyExistsError:
            return False
        except FileNotFoundError as error:
            # Not found on a conditional put means that the bucket is missing, not the key.
            raise _os_error(error) from error
    return True


def read_object(root: str, path: str) -> bytes:
    """Return the content of an object; FileNotFoundError where it is missing, else OSError."""
    import obstore

    with _failures():
        return bytes(obstore.get(_open_store(root), path).bytes())


def object_size(root: str, path: str) -> int | None:
    """Return the size of an object in bytes, None where it is missing; OSError where the request fails."""
    import obstore

    with suppress(FileNotFoundError), _failures():
        return int(obstore.head(_open_store(root), path)["size"])
    return None


def delete_object(root: str, path: str) -> None:
    """Delete an object if it is there; OSError where it cannot be."""
    import obstore

    with suppress(FileNotFoundError), _failures():
        obstore.delete(_open_store(root), path)


@contextmanager
def _failures() -> Iterator[None]:
    """Turn errors of obstore into OSErrors with a message of one line."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError:
        raise
    except BaseError as error:
        raise _os_error(error) from error


def _os_error(error: Exception) -> OSError:
    # The first line is the message; the store's XML and the debug form follow.
    message = str(error).split("\n")[0].removesuffix(': <?xml version="1.0" encoding="utf-8"?>')
    code = re.search(r"<Code>(\w+)</Code>", str(error))
    return OSError(f"{message} ({code[1]})" if code else message)


@cache
def _open_store(root: str) -> "ObjectStore":
    from obstore.store import from_url

    parts = urlsplit(root)
    url = f"{parts.scheme}://{parts.hostname}{parts.path}"
    if parts.scheme != "s3":
        return from_url(url)
    options = _s3_options(root)
    settings: dict[str, Any] = {"region": options["region"]}
    if "access_key" in options:
        settings |= {"access_key_id": options["access_key"], "secret_access_key": options["secret_key"]}
    else:
        settings |= _profile()
    if endpoint := options.get("endpoint_override"):
        scheme = options.get("scheme", "https")
        settings |= {"endpoint": f"{scheme}://{endpoint}", "client_options": {"allow_http": scheme == "http"}}
    return from_url(url, **settings)


def _s3_options(root: str) -> dict[str, Any]:
    """Return the options of a URI by the names of pyarrow's S3FileSystem, with a region."""
    import pyarrow.fs

    parts = urlsplit(root)
    options: dict[str, Any] = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    options = {name: value == "true" if value in ("true", "false") else value for name, value in options.items()}
    if parts.username:
        options |= {"access_key": unquote(parts.username), "secret_key": unquote(parts.password or "")}
    if endpoint := options.get("endpoint_override"):
        scheme, _, host = str(endpoint).rpartition("://")
        options |= {"endpoint_override": host} | ({"scheme": scheme} if scheme else {})
    if not options.get("region"):
        known = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        options["region"] = known or ("us-east-1" if endpoint else pyarrow.fs.resolve_s3_region(parts.hostname))
    return options


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
    return {name: found[profile][f"aws_{name}"] for name in PROFILE_KEYS if f"aws_{name}" in found[profile]}
