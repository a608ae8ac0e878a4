"""The shard format: a WebDataset tar whose bytes depend on its samples alone.

Every sample has the members {key}.cls {key}.jpg {key}.json, in that order; without pixels, none has {key}.jpg.
"""

import io
import json
import math
import re
import tarfile
from collections.abc import Iterable, Iterator

from engine.errors import ShardError
from engine.sample import Edit, Sample, Verdict

BLOCK_BYTES = 512
RECORD_BYTES = 20 * BLOCK_BYTES
# 1980-01-01, as in zip files: GNU tar calls anything at 1970 "implausibly old".
MTIME = 315_532_800
# A USTAR name has 100 bytes and ".json" takes 5; WebDataset ends the key at the first dot.
KEY = re.compile(r"^[A-Za-z0-9_-]{1,95}$")
JPEG_MAGIC = b"\xff\xd8\xff"
# What follows the checksum in a header: type "0", no link name, "ustar" 00, no owner names, no device, no prefix.
HEADER_END = b"0" + bytes(100) + b"ustar\00000" + bytes(247)
# The checksum counts its own 8 bytes as spaces.
HEADER_END_SUM = sum(HEADER_END) + 8 * 32


def encode_shard(samples: Iterable[Sample], *, images: bool = True) -> list[bytes]:
    """Return the tar in pieces, ready for `Storage.write`, members in the order of the samples.

    Raises ShardError for a key that other readers would cut or for an image that is not JPEG.
    """
    parts: list[bytes] = []
    for sample in samples:
        if not KEY.match(sample.key):
            raise ShardError(
                f"key {sample.key!r} cannot name a tar member: right are 1 to 95 of A-Z a-z 0-9 _ and -, no dots"
            )
        _add_member(parts, f"{sample.key}.cls", b"%d" % sample.label)
        if images:
            if not is_jpeg(sample.image):
                raise ShardError(
                    f"sample {sample.key}: the image is not JPEG, it begins {sample.image[:4]!r}: encode it anew first"
                )
            _add_member(parts, f"{sample.key}.jpg", sample.image)
        _add_member(parts, f"{sample.key}.json", sample_to_json(sample))
    size = sum(map(len, parts)) + 2 * BLOCK_BYTES
    parts.append(bytes(2 * BLOCK_BYTES + -size % RECORD_BYTES))
    return parts


def decode_shard(data: bytes, name: str = "shard") -> list[Sample]:
    """Return the samples of a tar that `encode_shard` made; `image` is empty where pixels were not kept.

    Raises ShardError, naming `name`, where the bytes are not such a tar.
    """
    try:
        return list(_samples(data))
    except (tarfile.TarError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ShardError(f"{name} is damaged ({error}): `counterforge verify` lists all damaged files") from error


def sample_to_json(sample: Sample) -> bytes:
    """Return everything but the image as strict JSON with sorted names, all of it flat.

    Each field has one type in all samples, and open mappings are JSON in a string: Hugging Face infers the types of a
    whole dataset from five samples. No edit is edit_kind "", no verdict is verdict "". A NaN score is null.
    """
    edit, verdict = sample.edit, sample.verdict
    record = {
        "key": sample.key,
        "source_key": sample.source_key,
        "role": sample.role,
        "label": sample.label,
        "class_name": sample.class_name,
        "split": sample.split,
        "caption": sample.caption,
        "edit_kind": edit.kind if edit else "",
        "edit_before": edit.before if edit else "",
        "edit_after": edit.after if edit else "",
        "edit_instruction": edit.instruction if edit else "",
        "edit_caption": edit.caption if edit else "",
        "edit_severity": float(edit.severity) if edit else 0.0,
        "verdict": ("accepted" if verdict.accepted else "rejected") if verdict else "",
        "reasons": dump_json(verdict.reasons if verdict else ()),
        "attributes": dump_json(dict(sample.attributes)),
        "scores": dump_json({name: _null_if_nan(value) for name, value in sample.scores.items()}),
        "provenance": dump_json(dict(sample.provenance)),
    }
    return dump_json(record).encode()


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
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def is_jpeg(image: bytes) -> bool:
    """Return whether encoded bytes begin as JPEG does."""
    return image.startswith(JPEG_MAGIC)


def _samples(data: bytes) -> Iterator[Sample]:
    members: dict[str, bytes] = {}
    end = 0
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive:
            extension = member.name.partition(".")[2]
            members[extension] = data[member.offset_data : member.offset_data + member.size]
            if len(members[extension]) < member.size:
                raise ValueError(f"{member.name} is cut off")
            end = member.offset_data + member.size + -member.size % BLOCK_BYTES
            if extension == "json":
                yield sample_from_json(members["json"], members.get("jpg", b""))
                members = {}
    if members or len(data) % RECORD_BYTES or len(data) - end < 2 * BLOCK_BYTES or any(data[end:]):
        raise ValueError("the end is missing")


def _add_member(parts: list[bytes], name: str, content: bytes) -> None:
    parts.append(_header(name.encode("ascii"), len(content)))
    parts.append(content)
    if padding := -len(content) % BLOCK_BYTES:
        parts.append(bytes(padding))


def _header(name: bytes, size_bytes: int) -> bytes:
    """Return a USTAR header: mode 0644, owner 0, fixed time. POSIX.1-1988, section 10.1.1."""
    start = b"%b0000644\0000000000\0000000000\000%011o\000%011o\000" % (name.ljust(100, b"\0"), size_bytes, MTIME)
    return b"%b%06o\0 %b" % (start, sum(start) + HEADER_END_SUM, HEADER_END)


def _null_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
