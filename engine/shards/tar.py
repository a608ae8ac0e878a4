"""The shard format: a WebDataset tar whose bytes depend on its samples alone.

Every sample has the members {key}.cls {key}.jpg {key}.json, in that order, or {key}.png in place of {key}.jpg; without
pixels, none has either.
"""

import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence

from engine.errors import ShardError
from engine.sample import ImageBytes, Sample
from engine.shards.record import Fields, RecordWriter, sample_from_json

BLOCK_BYTES = 512
RECORD_BYTES = 20 * BLOCK_BYTES
# 1980-01-01, as in zip files: GNU tar calls anything at 1970 "implausibly old".
MTIME = 315_532_800
# A USTAR name has 100 bytes and ".json" takes 5; WebDataset ends the key at the first dot.
KEY = re.compile(r"^[A-Za-z0-9_-]{1,95}$")
JPEG_MAGIC = b"\xff\xd8\xff"
# A PNG's first chunk is its header, and 16 bytes on are the bits of a colour and the kind: 8 and 2, as those of RGB.
PNG_MAGIC, PNG_RGB = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\x08\x02"
PNG_START = len(PNG_MAGIC) + 8 + len(PNG_RGB)
# The fields of a header between name and size, size and checksum, and after that: mode 0644 and owner 0; the time; type
# "0", no link name, "ustar" 00, no owner names, no device, no prefix.
HEADER_OWNER = b"0000644\0000000000\0000000000\0"
HEADER_TIME = b"\0%011o\0" % MTIME
HEADER_END = b"0" + bytes(100) + b"ustar\00000" + bytes(247)
# By the end of a member's name: what follows a key of so many bytes up to the size, and the sum of what is neither. A
# header's checksum counts its own 8 bytes as spaces.
HEADER_AFTER_KEY = {
    end: (
        [end.encode().ljust(100 - length, b"\0") + HEADER_OWNER for length in range(96)],
        sum(end.encode()) + sum(HEADER_OWNER) + sum(HEADER_TIME) + sum(HEADER_END) + 8 * ord(" "),
    )
    for end in (".cls", ".jpg", ".json", ".png")
}
ZEROS = bytes(BLOCK_BYTES)


def encode_shard(
    samples: Iterable[Sample], fields: Fields | None = None, *, images: bool = True
) -> Iterator[ImageBytes]:
    """Check the samples, then return the tar in pieces, ready for `Storage.write`, members in the order of the samples.

    `fields` are those of the whole shard's records; by default those that the samples have. Raises ShardError for a key
    that other readers would cut or for an image that is neither JPEG nor PNG of RGB.
    """
    wanted = list(samples)
    extensions = [image_extension(sample.image) for sample in wanted] if images else [""] * len(wanted)
    for sample, extension in zip(wanted, extensions, strict=True):
        if not KEY.match(sample.key):
            raise ShardError(
                f"key {sample.key!r} cannot name a tar member: right are 1 to 95 of A-Z a-z 0-9 _ and -, no dots"
            )
        if extension is None:
            raise ShardError(
                f"sample {sample.key}: the image is neither JPEG nor PNG of 8-bit RGB, it begins "
                f"{bytes(sample.image[:4])!r}: encode it anew first"
            )
    return _pieces(wanted, extensions, RecordWriter(Fields.of(wanted) if fields is None else fields))


def decode_shard(data: bytes, name: str = "shard") -> list[Sample]:
    """Return the samples of a tar that `encode_shard` made; `image` is empty where pixels were not kept.

    Raises ShardError, naming `name`, where the bytes are not such a tar.
    """
    try:
        return list(_samples(data))
    except (tarfile.TarError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ShardError(f"{name} is damaged ({error}): `counterforge verify` lists all damaged files") from error


def image_extension(image: ImageBytes) -> str | None:
    """Return .jpg or .png for encoded bytes that begin as JPEG or as a PNG of 8-bit RGB does; None for others."""
    start = bytes(image[:PNG_START])
    if start.startswith(JPEG_MAGIC):
        return ".jpg"
    if start.startswith(PNG_MAGIC) and start.endswith(PNG_RGB):
        return ".png"
    return None


def _samples(data: bytes) -> Iterator[Sample]:
    members: dict[str, bytes] = {}
    end = 0
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive:
            extension = member.name.partition(".")[2]
            members[extension] = data[member.offset_data : member.offset_data + member.size]
            if len(members[extension]) < member.size:
                raise ValueError(f"{member.name} is cut off")
            end = member.offset_data + whole_blocks(member.size)
            if extension == "json":
                yield sample_from_json(members["json"], members.get("jpg") or members.get("png", b""))
                members = {}
    if members or len(data) % RECORD_BYTES or len(data) - end < 2 * BLOCK_BYTES or any(data[end:]):
        raise ValueError("the end is missing")


def _pieces(samples: Sequence[Sample], extensions: Sequence[str | None], records: RecordWriter) -> Iterator[ImageBytes]:
    size = 0
    for sample, extension in zip(samples, extensions, strict=True):
        key, label, record = sample.key.encode("ascii"), b"%d" % sample.label, records.json(sample)
        sum_of_key = sum(key)
        # Few pieces, each of which costs as much to hand on as some hundred bytes.
        before = [_header(key, sum_of_key, ".cls", len(label)), label.ljust(BLOCK_BYTES, b"\0")]
        after = [_header(key, sum_of_key, ".json", len(record)), record, ZEROS[: -len(record) % BLOCK_BYTES]]
        if extension:
            image = sample.image
            yield b"".join([*before, _header(key, sum_of_key, extension, len(image))])
            yield image
            yield b"".join([ZEROS[: -len(image) % BLOCK_BYTES], *after])
            size += whole_blocks(len(image)) + BLOCK_BYTES
        else:
            yield b"".join([*before, *after])
        size += 3 * BLOCK_BYTES + whole_blocks(len(record))
    yield bytes(2 * BLOCK_BYTES + -(size + 2 * BLOCK_BYTES) % RECORD_BYTES)


def whole_blocks(size_bytes: int) -> int:
    """Return how many bytes so many take in a tar, header apart."""
    return size_bytes + -size_bytes % BLOCK_BYTES


def _header(key: bytes, sum_of_key: int, extension: str, size_bytes: int) -> bytes:
    """Return a USTAR header: mode 0644, owner 0, fixed time. POSIX.1-1988, section 10.1.1."""
    after_key, sum_of_rest = HEADER_AFTER_KEY[extension]
    size = b"%011o" % size_bytes
    checksum = b"%06o\0 " % (sum_of_key + sum(size) + sum_of_rest)
    return b"".join((key, after_key[len(key)], size, HEADER_TIME, checksum, HEADER_END))
