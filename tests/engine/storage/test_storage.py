"""Storage: a file is there whole or not at all, on a disk and on an object store."""

import errno
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from blake3 import blake3
from local_s3 import Faults, faulty_s3

import engine.storage.object_store
from engine.errors import RunError
from engine.storage.blocks import BLOCK_BYTES, StoredFile
from engine.storage.object_store import create_object
from engine.storage.storage import Storage


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Faults]]:
    with faulty_s3() as found:
        yield found


@pytest.fixture
def bucket(server: tuple[str, Faults]) -> str:
    server[1].set(200, "", times=0)
    return server[0]


@pytest.fixture(params=["folder", "file", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    match request.param:
        case "folder":
            return Storage(str(tmp_path))
        case "file":
            return Storage(f"file://{tmp_path}")
        case _:
            found = Storage(f"{request.getfixturevalue('bucket')}")
            for name in found.list("shards"):
                found.delete(f"shards/{name}")
            return found


def test_what_was_written_is_read_with_its_hash(storage: Storage) -> None:
    stored = storage.write("shards/a.tar", [b"one", b"", b"two"])
    assert stored == StoredFile(blake3=blake3(b"onetwo").hexdigest(), size_bytes=6)
    assert storage.read("shards/a.tar") == b"onetwo"
    assert storage.digest("shards/a.tar") == stored
    assert storage.size("shards/a.tar") == 6


def test_writing_again_replaces_and_deleting_removes(storage: Storage) -> None:
    storage.write("shards/a.tar", b"old")
    storage.write("shards/a.tar", b"newer")
    assert storage.read("shards/a.tar") == b"newer"
    storage.delete("shards/a.tar")
    storage.delete("shards/a.tar")
    assert not storage.exists("shards/a.tar")


def test_a_missing_file_is_file_not_found(storage: Storage) -> None:
    assert storage.size("shards/none") is None
    with pytest.raises(FileNotFoundError):
        storage.read("shards/none")
    with pytest.raises(FileNotFoundError):
        storage.digest("shards/none")


def test_a_file_is_created_once(storage: Storage) -> None:
    assert storage.create("shards/0.json", b"first")
    assert not storage.create("shards/0.json", b"second")
    assert storage.read("shards/0.json") == b"first"


def test_names_are_listed_sorted_by_suffix(storage: Storage) -> None:
    for name in ("2.tar", "10.tar", "1.json"):
        storage.write(f"shards/{name}", b"x")
    assert storage.list("shards", ".tar") == ["10.tar", "2.tar"]
    assert storage.list("nothing") == []


def test_storage_travels_between_processes(storage: Storage) -> None:
    import pickle

    storage.write("shards/a", b"x")
    assert pickle.loads(pickle.dumps(storage)).read("shards/a") == b"x"


def test_many_pieces_are_written_in_order(tmp_path: Path) -> None:
    parts = [b"%d," % number for number in range(5000)]
    Storage(str(tmp_path)).write("big", parts)
    assert (tmp_path / "big").read_bytes() == b"".join(parts)


def test_blocks_are_hashed_and_written_in_their_order(storage: Storage) -> None:
    parts = [b"%d" % number * (BLOCK_BYTES // 3) for number in range(10)] + [b"the end"]
    whole = b"".join(parts)
    stored = storage.write("big", iter(parts))
    assert stored == StoredFile(blake3=blake3(whole).hexdigest(), size_bytes=len(whole))
    assert storage.read("big") == whole


def test_pieces_that_cannot_be_made_leave_nothing(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield bytes(2 * BLOCK_BYTES)
        raise ValueError("Out of range float values are not JSON compliant")

    with pytest.raises(ValueError, match="not JSON compliant"):
        Storage(str(tmp_path)).write("a", pieces())
    assert os.listdir(tmp_path) == []


def test_a_disk_that_is_full_in_the_middle_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, blocks = os.write, iter(range(2))

    def write(descriptor: int, data: memoryview) -> int:
        if next(blocks, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(RunError, match=r"cannot write .*/a: No space left on device: free some space"):
        Storage(str(tmp_path)).write("a", [bytes(BLOCK_BYTES)] * 9)
    assert os.listdir(tmp_path) == []


def test_a_short_write_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: whole(descriptor, data[:7]))
    Storage(str(tmp_path)).write("file", [b"0123", b"456789", b"ab"])
    assert (tmp_path / "file").read_bytes() == b"0123456789ab"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(tmp_path))
    storage.write("a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*/a: No space left on device: free some space"):
        storage.write("a", b"new")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_of_many_that_create_at_once_one_is_told_yes(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    # All have asked and heard that nobody is there.
    monkeypatch.setattr(storage, "exists", lambda path: False)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: storage.create("shards/a.json", b"%d" % number), range(8)))
    assert made.count(True) == 1
    assert storage.read("shards/a.json") == b"%d" % made.index(True)


def test_the_keys_of_a_profile_are_found(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "credentials"
    file.write_text("[forge]\naws_access_key_id = key\naws_secret_access_key = a%cret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "forge")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    assert create_object(bucket.replace("key:secret@", ""), "profile", b"x")
    monkeypatch.setenv("AWS_PROFILE", "none")
    assert not create_object(bucket, "profile", b"x")


def test_a_missing_permission_names_path_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(RunError, match=r"cannot write .*/a: Permission denied: give yourself permission"):
        Storage(str(tmp_path)).write("a", b"new")


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "shards").write_bytes(b"")
    with pytest.raises(RunError, match="a file is in the way"):
        Storage(str(tmp_path)).write("shards/a.tar", b"x")


def test_unfinished_files_are_not_listed_and_those_of_the_dead_are_swept(tmp_path: Path) -> None:
    host = socket.gethostname()
    dead, alive, other = f".a.tar.tmp~{host}~4194305~0f", f".a.tar.tmp~{host}~{os.getpid()}~0f", ".a.tar.tmp~else~7~0f"
    for name in (dead, alive, other):
        (tmp_path / name).write_bytes(b"torn")
    storage = Storage(str(tmp_path))
    assert storage.list("") == []
    storage.sweep("")
    assert sorted(os.listdir(tmp_path)) == sorted([alive, other])


def test_an_object_store_keeps_its_secrets_out_of_messages(bucket: str) -> None:
    storage = Storage(bucket)
    assert storage.name("a") == "s3://forge/runs/one/a"
    with pytest.raises(RunError, match="s3://forge/runs/one/a is not on a local disk"):
        storage.local_path("a")


def test_an_unknown_scheme_says_what_is_right() -> None:
    with pytest.raises(RunError, match="s3://bucket/folder"):
        Storage("ftp://host/folder")


def test_a_lost_bucket_is_a_run_error(bucket: str) -> None:
    storage = Storage(bucket.replace("forge", "absent"))
    with pytest.raises(RunError, match="there is no such bucket: create it"):
        storage.write("a", b"x")
    with pytest.raises(RunError, match=r"absent/runs/one/a: .*there is no such bucket") as caught:
        storage.create("a", b"x")
    assert "secret" not in str(caught.value)


def test_a_small_file_is_one_request(server: tuple[str, Faults], bucket: str) -> None:
    Storage(bucket).write("shards/small.tar", b"x" * 1000)
    assert dict(server[1].requests) == {"PUT": 1}


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError")])
def test_a_busy_store_is_asked_again(server: tuple[str, Faults], bucket: str, status: int, code: str) -> None:
    storage, faults = Storage(bucket), server[1]
    faults.set(status, code, times=1)
    assert storage.write("shards/busy.tar", b"one").size_bytes == 3
    faults.set(status, code, times=1)
    assert storage.read("shards/busy.tar") == b"one"
    faults.set(status, code, times=1)
    assert create_object(bucket, f"done/{code}.json", b"two")
    assert faults.requests["PUT"] == 2


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (503, "SlowDown", "the store was busy at 2 attempts: start the same command again later"),
        (403, "AccessDenied", "these credentials may not do that in this bucket: they need to list, get, put"),
        (403, "InvalidAccessKeyId", "the key is wrong: check AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "the key is wrong"),
        (403, "ExpiredToken", "the credentials have expired: sign in again"),
    ],
)
def test_what_a_store_refuses_is_told_with_its_remedy(
    server: tuple[str, Faults], bucket: str, monkeypatch: pytest.MonkeyPatch, status: int, code: str, advice: str
) -> None:
    monkeypatch.setattr(engine.storage.object_store, "MAX_ATTEMPTS", 2)
    storage = Storage(bucket)
    server[1].set(status, code, times=50)
    with pytest.raises(RunError) as caught:
        storage.write("shards/a.tar", b"x")
    assert "cannot write s3://forge/runs/one/shards/a.tar: " in str(caught.value)
    assert advice in str(caught.value)
    assert sum(server[1].requests.values()) <= 2
