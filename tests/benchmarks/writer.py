"""The writing of shards against webdataset's writer and a bare write of the same bytes.

Our arm is what the sink does with the samples of a shard: their records become JSON, then tar, which is hashed, written
beside its final name, synced, renamed. webdataset gets dicts that hold the same, and does none of the latter three.
"""

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from engine.figures.figures import Figure
from engine.sample import Sample
from engine.shards.record import Fields, RecordWriter
from engine.shards.tar import encode_shard
from engine.storage.storage import Storage
from tests.benchmarks.pairs import ratio_figure
from tests.benchmarks.samples import make_samples

NUM_SOURCES = 256
MEMORY = Path("/dev/shm")
RAW_BYTES = 8 << 20
OURS, THEIRS, RAW = "ours.tar", "theirs-%d.tar", "raw"


def writer_figures(folder: Path) -> Iterator[Figure]:
    """Yield figure 8, in memory; how it is on the disk of `folder` is for information."""
    samples = make_samples(NUM_SOURCES)
    in_memory = MEMORY / f"counterforge-writer-{os.getpid()}"
    for name, place in (("writer", in_memory), ("writer_on_disk", folder)):
        place.mkdir(parents=True)
        try:
            yield from _figures(name, place, samples)
        finally:
            shutil.rmtree(place)


def _figures(name: str, folder: Path, samples: Sequence[Sample]) -> Iterator[Figure]:
    ours, theirs = _ours(folder, samples), _theirs(folder, samples)
    ours()
    theirs()
    assert _content(folder / OURS) == _content(folder / (THEIRS % 0))
    whole = (folder / OURS).read_bytes()
    has_target = name == "writer"
    sizes = (float(len(whole)), float((folder / (THEIRS % 0)).stat().st_size))
    yield ratio_figure(f"{name}.times_webdataset", ours, theirs, 7.0 if has_target else None, per=sizes)
    raw = _raw(folder / RAW, whole, sync=not has_target)
    yield ratio_figure(f"{name}.share_of_raw_write", ours, raw, 0.65 if has_target else None)
    if has_target:
        yield ratio_figure(f"{name}.times_sha256_alone", ours, lambda: hashlib.sha256(whole).hexdigest())


def _ours(folder: Path, samples: Sequence[Sample]) -> Callable[[], object]:
    storage = Storage(str(folder))
    return lambda: storage.write(OURS, encode_shard(samples))


def _theirs(folder: Path, samples: Sequence[Sample]) -> Callable[[], object]:
    import webdataset

    records = RecordWriter(Fields.of(samples))
    dicts = [
        {
            "__key__": sample.key,
            "jpg": sample.image,
            "json": json.loads(records.json(sample)),
            "cls": sample.label,
        }
        for sample in samples
    ]

    def write() -> None:
        with webdataset.ShardWriter(str(folder / THEIRS), maxcount=len(dicts) + 1, maxsize=2**40, verbose=0) as writer:
            for each in dicts:
                writer.write(each)

    return write


def _raw(path: Path, data: bytes, *, sync: bool) -> Callable[[], object]:
    """Return a write of bytes to a new file; on a disk it waits for the disk, as ours does."""
    view = memoryview(data)

    def write() -> None:
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        for start in range(0, len(view), RAW_BYTES):
            os.write(descriptor, view[start : start + RAW_BYTES])
        if sync:
            os.fsync(descriptor)
        os.close(descriptor)

    return write


def _content(path: Path) -> dict[str, object]:
    """Return what a tar holds, by name."""
    with tarfile.open(path) as archive:
        files = {member.name: archive.extractfile(member) for member in archive}
        return {
            name: json.load(file) if name.endswith(".json") else file.read() for name, file in files.items() if file
        }
