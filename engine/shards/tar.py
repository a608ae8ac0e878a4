"""The shard format: a WebDataset tar whose bytes depend on its samples alone.

Every sample has the members {key}.cls {key}.jpg {key}.json, in that order, or {key}.png in place of {key}.jpg; without
pixels, none has either.
"""

import io
import json
import math
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from json.encoder import encode_basestring as quoted

import orjson

from engine.errors import ShardError
from engine.sample import Edit, ImageBytes, Json, Sample, Verdict

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
NO_REASONS = '"[]"'
# Without a look for circles, which would take a third longer: they end in a RecursionError.
JSON = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
)


def encode_shard(samples: Iterable[Sample], *, images: bool = True) -> Iterator[ImageBytes]:
    """Check the samples, then return the tar in pieces, ready for `Storage.write`, members in the order of the samples.

    Raises ShardError for a key that other readers would cut or for an image that is neither JPEG nor PNG of RGB.
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
    return _pieces(wanted, extensions)


def decode_shard(data: bytes, name: str = "shard") -> list[Sample]:
    """Return the samples of a tar that `encode_shard` made; `image` is empty where pixels were not kept.

    Raises ShardError, naming `name`, where the bytes are not such a tar.
    """
    try:
        return list(_samples(data))
    except (tarfile.TarError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ShardError(f"{name} is damaged ({error}): `counterforge verify` lists all damaged files") from error


def sample_to_json(sample: Sample, texts: "JsonTexts | None" = None) -> bytes:
    """Return everything but the image as strict JSON with sorted names, all of it flat.

    Each field has one type in all samples, and open mappings are JSON in a string: Hugging Face infers the types of a
    whole dataset from five samples. No edit is edit_kind "", no verdict is verdict "". A NaN score is null.
    """
    texts = JsonTexts() if texts is None else texts
    edit, verdict = sample.edit, sample.verdict
    after, before, caption, instruction, kind = (
        (edit.after, edit.before, edit.caption, edit.instruction, edit.kind) if edit else ("",) * 5
    )
    # Written out, names in order: from a dict it takes twice as long.
    return (
        f'{{"attributes":"{texts.of(sample.attributes)}"'
        f',"caption":{_quoted(sample.caption)}'
        f',"class_name":{_quoted(sample.class_name)}'
        f',"edit_after":{_quoted(after)},"edit_before":{_quoted(before)},"edit_caption":{quoted(caption)}'
        f',"edit_instruction":{quoted(instruction)},"edit_kind":{_quoted(kind)}'
        f',"edit_severity":{_number(edit.severity) if edit else "0.0"}'
        f',"key":{quoted(sample.key)}'
        f',"label":{sample.label:d}'
        f',"provenance":"{texts.of_each(sample.provenance)}"'
        f',"reasons":{quoted(dump_json(verdict.reasons)) if verdict and verdict.reasons else NO_REASONS}'
        f',"role":{_quoted(sample.role)}'
        f',"scores":"{_scores(sample.scores)}"'
        f',"source_key":{_quoted(sample.source_key)}'
        f',"split":{_quoted(sample.split)}'
        f',"verdict":"{("accepted" if verdict.accepted else "rejected") if verdict else ""}"}}'
    ).encode()


def sample_from_json(data: bytes, image: bytes) -> Sample:
    """Return the sample that `sample_to_json` wrote, with its image."""
    record = json.loads(data)
    edit = Edit(
        kind=record["edit_kind"],
        before=record["edit_before"],
        after=record["edit_after"],
        instruction=record["edit_instruction"],
        caption=record["edit_caption"],
        severity=record["edit_severity"],
    )
    scores = json.loads(record["scores"])
    verdict = Verdict(accepted=record["verdict"] == "accepted", reasons=tuple(json.loads(record["reasons"])))
    return Sample(
        key=record["key"],
        source_key=record["source_key"],
        role=record["role"],
        image=image,
        label=record["label"],
        class_name=record["class_name"],
        split=record["split"],
        caption=record["caption"],
        edit=edit if edit.kind else None,
        attributes=json.loads(record["attributes"]),
        scores={name: math.nan if value is None else value for name, value in scores.items()},
        verdict=verdict if record["verdict"] else None,
        provenance=json.loads(record["provenance"]),
    )


def dump_json(value: object) -> str:
    """Return strict JSON in one fixed form: sorted names, no spaces; ValueError for NaN and infinity."""
    return JSON.encode(value)


class JsonTexts:
    """Remember the JSON of what the samples of a shard share: `replace` hands a source's own mappings to its edits.

    Texts are escaped, to stand in a string of JSON.
    """

    def __init__(self) -> None:
        # The objects stay with their text: their ids are not given to others meanwhile.
        self._known: dict[int, tuple[object, str]] = {}
        self._known_each: dict[tuple[object, ...], tuple[object, str]] = {}

    def of(self, mapping: Mapping[str, object]) -> str:
        """Return the JSON of a mapping that nobody changes."""
        known = self._known.get(id(mapping))
        if known is None:
            known = self._known[id(mapping)] = mapping, _escaped(dump_json(dict(mapping)))
        return known[1]

    def of_each(self, mapping: Mapping[str, Json]) -> str:
        """Return the JSON of a mapping whose values are shared rather than itself, as the records of stages are."""
        same = (*mapping, *map(id, mapping.values()))
        known = self._known_each.get(same)
        if known is None:
            each = [
                _name(name) + (self.of(value) if isinstance(value, dict) else _escaped(dump_json(value)))
                for name, value in sorted(mapping.items())
            ]
            known = self._known_each[same] = tuple(mapping.values()), f"{{{','.join(each)}}}"
        return known[1]


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


def _pieces(samples: Sequence[Sample], extensions: Sequence[str | None]) -> Iterator[ImageBytes]:
    texts, size = JsonTexts(), 0
    for sample, extension in zip(samples, extensions, strict=True):
        key, label, record = sample.key.encode("ascii"), b"%d" % sample.label, sample_to_json(sample, texts)
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


def _scores(scores: Mapping[str, float]) -> str:
    """Return the JSON of scores by name, escaped; NaN is null. Raises ValueError for infinity."""
    if isinstance(scores, dict) and _are_plain(tuple(scores)) and _are_usual(scores.values()):
        return orjson.dumps(scores, option=orjson.OPT_SORT_KEYS).decode().replace('"', '\\"')
    return "{" + ",".join(_name(name) + _number(scores[name]) for name in sorted(scores)) + "}"


@lru_cache(1024)
def _are_plain(names: tuple[str, ...]) -> bool:
    """Return whether names have nothing to be escaped and the same order as their bytes."""
    return all(name.isascii() and _name(name) == f'\\"{name}\\":' for name in names)


def _are_usual(values: Iterable[float]) -> bool:
    """Return whether orjson writes all of the numbers as `_number` does, which takes five times as long."""
    for value in values:
        # It writes 1e-05 as 0.00001, 1e+16 as 1e16, infinity as null.
        if type(value) is not float or not (1e-4 <= value < 1e16 or -1e16 < value <= -1e-4 or value == 0):
            return False
    return True


def _number(value: float) -> str:
    """Return a number as JSON, as `dump_json` writes it, but NaN as null. Raises ValueError for infinity."""
    text = repr(float(value))
    if text[-1] not in "nf":
        return text
    if text == "nan":
        return "null"
    raise ValueError(f"{value} is not JSON compliant")


# What many samples have.
_quoted = lru_cache(1024)(quoted)


@lru_cache(1024)
def _name(name: str) -> str:
    """Return a name with its colon, escaped."""
    return f"{_escaped(quoted(name))}:"


def _escaped(text: str) -> str:
    """Return a text as it stands between the quotes of a string of JSON."""
    return quoted(text)[1:-1]
