"""Walking a shard: the same samples as reading it whole, few of its bytes, and no damage passes."""

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from local_s3 import faulty_s3
from PIL import Image

from engine.errors import ShardError
from engine.sample import Edit, Sample, Verdict
from engine.shards.tar import BLOCK_BYTES, decode_shard, encode_shard
from engine.shards.walk import FILES_HELD, Entry, Shard
from engine.storage.storage import Storage

PATH = "shards/000000.tar"


def encoded(edge: int, kind: str = "JPEG") -> bytes:
    """Return an image of noise."""
    output = io.BytesIO()
    noise = np.random.default_rng(edge).integers(0, 256, (edge, edge, 3), np.uint8)
    Image.fromarray(noise).save(output, kind)
    return output.getvalue()


def samples() -> list[Sample]:
    """Return a source with edits: the longest key there may be, images of whole blocks and of any size, long JSON."""
    source = Sample(
        key="k" * 92, source_key="k" * 92, role="source", image=encoded(40), label=12, class_name="botte d’hiver",
        split="train", attributes={"place": "x" * 20_000},
    )  # fmt: skip
    edit = Edit(kind="background", before="grass", after="snow", instruction="put it on snow", caption="on snow")
    whole_blocks = source.image + bytes(-len(source.image) % BLOCK_BYTES)
    edits = [
        replace(source, key=f"{source.key}-{number}", role="counterfactual", image=image, edit=edit,
                verdict=Verdict(accepted=True), attributes={})
        for number, image in enumerate([whole_blocks, encoded(90, "PNG"), encoded(8)])
    ]  # fmt: skip
    return [source, *edits]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def write(storage: Storage, content: list[Sample]) -> bytes:
    data = b"".join(encode_shard(content))
    storage.write(PATH, data)
    return data


def read(entries: Iterator[Entry]) -> list[Sample]:
    return [replace(entry.sample(), image=entry.image()) for entry in entries]


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_walk_finds_what_reading_the_whole_finds(storage: Storage, count: int) -> None:
    data = write(storage, samples()[:count])
    entries = list(Shard(storage, PATH).entries())
    assert read(iter(entries)) == decode_shard(data) == samples()[:count]
    assert [entry.label for entry in entries] == [12] * count
    assert [entry.key for entry in entries] == [sample.key for sample in samples()[:count]]


def test_an_object_store_gives_the_same_in_one_request() -> None:
    with faulty_s3() as (root, faults):
        storage = Storage(root)
        write(storage, samples())
        faults.requests.clear()
        assert read(Shard(storage, PATH).entries()) == samples()
        assert faults.requests.total() == 1


def test_images_stay_on_the_disk_until_they_are_asked_for(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    large = [replace(samples()[1], key=f"{number}", image=encoded(500)) for number in range(20)]
    assert all(len(sample.image) > 80_000 for sample in large)
    size, read_bytes, pread = len(write(storage, large)), 0, os.pread

    def counted(descriptor: int, size_bytes: int, offset: int) -> bytes:
        nonlocal read_bytes
        content = pread(descriptor, size_bytes, offset)
        read_bytes += len(content)
        return content

    monkeypatch.setattr(os, "pread", counted)
    entries = list(Shard(storage, PATH).entries())
    assert read_bytes < size / 8
    assert entries[3].image() == large[3].image


def test_every_cut_is_damage(storage: Storage) -> None:
    data = write(storage, samples())
    for size in range(0, len(data), BLOCK_BYTES):
        storage.write(PATH, data[:size])
        with pytest.raises(ShardError, match=r"000000\.tar is damaged \(.*`counterforge verify`"):
            list(Shard(storage, PATH).entries())


@pytest.mark.parametrize("broken", ["name", "size", "order", "tail"])
def test_what_is_no_shard_is_damage(storage: Storage, broken: str) -> None:
    data = bytearray(write(storage, samples()))
    match broken:
        case "name":
            data[data.index(b".jpg")] = ord("_")
        case "size":
            data[124:135] = b"x" * 11
        case "order":
            data[:100] = (b"k" * 92 + b".json").ljust(100, b"\0")
        case "tail":
            data[-1] = 1
    storage.write(PATH, bytes(data))
    with pytest.raises(ShardError, match="is damaged"):
        list(Shard(storage, PATH).entries())


def test_json_that_is_no_sample_is_named_by_its_key(storage: Storage) -> None:
    data = write(storage, samples()[:1])
    storage.write(PATH, data.replace(b'"role":', b'"rule":'))
    (entry,) = Shard(storage, PATH).entries()
    with pytest.raises(ShardError, match=f"the JSON of sample {entry.key} is damaged"):
        entry.sample()


def test_an_image_is_of_the_file_that_was_walked_whatever_replaces_it(storage: Storage) -> None:
    write(storage, samples())
    walked = list(Shard(storage, PATH).entries())
    assert walked[0].image() == samples()[0].image
    write(storage, samples()[::-1])
    # It is held open; where it is not, nothing else is taken for it.
    assert walked[3].image() == samples()[3].image
    other = list(Shard(storage, PATH).entries())
    write(storage, samples())
    with pytest.raises(ShardError, match="was replaced while it was read"):
        other[0].image()


def test_images_of_more_shards_than_are_held_open_are_read_by_many_threads(storage: Storage) -> None:
    wanted, walked = [], []
    for number in range(FILES_HELD + 20):
        sample = replace(samples()[3], key=f"{number}", image=encoded(8 + number))
        storage.write(f"shards/{number:06d}.tar", b"".join(encode_shard([sample])))
        wanted.append(sample.image)
        walked += list(Shard(storage, f"shards/{number:06d}.tar").entries())
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert list(pool.map(lambda entry: entry.image(), walked)) == wanted
    assert len(os.listdir("/proc/self/fd")) <= before + FILES_HELD


def test_a_shard_that_is_not_there_is_said_to_be_missing(storage: Storage) -> None:
    with pytest.raises(FileNotFoundError):
        list(Shard(storage, PATH).entries())
