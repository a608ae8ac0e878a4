"""Random tables and tars, read by us and by a second reader: csv, pandas, json, tarfile, webdataset; `make fuzz`."""

import csv
import json
import os
import tarfile
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from source_files import write_tar

from engine.errors import SourceError
from engine.runfile.data import TableSource, TarSource
from engine.sources import SourceItem, missing_files, open_source
from engine.sources.labels import MISSING
from engine.sources.presence import absent_files

ODD = [
    "NA",
    "NaN",
    "None",
    "null",
    "1",
    "1.0",
    "01",
    "cafe\u0301",
    "caf\xe9",
    "\uac00",
    "\u1100\u1161",
    " a",
    "a\nb",
    'a"b',
    "",
]
TEXTS = st.sampled_from(ODD) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\ufeff"), max_size=8
)
NUMBERS = st.integers(-5, 10**20) | st.floats(width=32) | st.sampled_from([0.0, 1.0, 2.0, float("nan"), float("inf")])
VALUES = TEXTS | NUMBERS | st.none() | st.booleans() | st.lists(st.integers(), max_size=2)
# Keys of a tar: ASCII or not, with folders, and longer than a header's name field.
KEYS = st.from_regex(r"\A([a-c]/)?[a-z0-9é猫_-]{1,12}\Z") | st.sampled_from(["x" * 105, "deep/" * 30 + "y", "é" * 60])
FORMATS = st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
PICTURE_ENDS = ("jpg", "PNG", "webp")


@given(
    rows=st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=30),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    suffix=st.sampled_from(["csv", "tsv"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def tables_are_read_as_csv_and_pandas_read_them(
    rows: list[tuple[str, str, str]], quoting: int, end: str, suffix: str, encoding: str
) -> None:
    """Compare cells with the csv module, what is missing with pandas, names with unicodedata."""
    separator = "\t" if suffix == "tsv" else ","
    with folder() as root:
        path = root / f"a.{suffix}"
        with path.open("w", encoding=encoding, newline="") as file:
            writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=end)
            writer.writerow(("path", "label", "caption", "camera"))
            writer.writerows((f"{number}.jpg", *row) for number, row in enumerate(rows))
        with path.open(encoding=encoding, newline="") as file:
            records = list(csv.DictReader(file, delimiter=separator))
        frame = pandas.read_csv(path, sep=separator, encoding=encoding, dtype=str, skipinitialspace=False)
        config = TableSource(path=str(path), attributes=("camera",))
        found = listed(config)
        assert len(records) == len(rows) == len(frame)
        gaps = [number for number, record in enumerate(records) if is_missing(record["label"])]
        assert all(
            frame.label.isna()[number]
            for number in gaps
            if records[number]["label"] == records[number]["label"].strip()
        )
        if gaps:
            assert isinstance(found, SourceError)
            assert "label" in str(found)
            return
        assert not isinstance(found, SourceError), found
        assert [item.locator for item in found] == [record["path"] for record in records]
        assert [item.class_name for item in found] == [class_of(record["label"]) for record in records]
        captions = [record["caption"].strip() for record in records]
        assert [item.caption for item in found] == ["" if is_missing(text) else text for text in captions]
        cameras = [unicodedata.normalize("NFC", record["camera"].strip()) for record in records]
        assert [item.attributes["camera"] for item in found] == ["" if is_missing(text) else text for text in cameras]
        assert labels_are_those_of(found)


RECORDS = st.fixed_dictionaries({}, optional=dict.fromkeys(("label", "group", "caption", "camera"), VALUES))


@given(records=st.lists(RECORDS, min_size=1, max_size=20))
def lines_of_json_are_read_as_json_reads_them(records: list[dict[str, object]]) -> None:
    """Compare with the values before they were written."""
    lines = [json.dumps({"path": f"{number}.jpg", **record}) for number, record in enumerate(records)]
    with folder() as root:
        (root / "a.jsonl").write_text("\n\n".join(lines), encoding="utf-8")
        found = listed(TableSource(path=f"{root}/a.jsonl"))
        gaps = [number for number, record in enumerate(records) if not text_of(record.get("label"))]
        if gaps:
            assert isinstance(found, SourceError)
            assert any(f"line {2 * gap + 1}:" in str(found) for gap in gaps)
            return
        assert not isinstance(found, SourceError), found
        assert [item.class_name for item in found] == [class_of(text_of(record["label"])) for record in records]
        assert labels_are_those_of(found)
        for item, record in zip(found, records, strict=True):
            group = class_of(text_of(record.get("group")))
            assert item.split_key == (f"group:{group}" if group else item.key)
            caption = record.get("caption")
            assert item.caption == (text_of(caption) if not isinstance(caption, list) else "")


@st.composite
def samples(draw: st.DrawFn) -> list[tuple[str, list[tuple[str, bytes]]]]:
    """Draw the samples of a tar, each a key and its members: an image, and a label as text, JSON or both."""
    found = []
    for number, key in enumerate(draw(st.lists(KEYS, min_size=1, max_size=8, unique=True))):
        label = draw(st.sampled_from(["cat", "dog", "7"]))
        members = [(draw(st.sampled_from(PICTURE_ENDS)), b"picture %d" % number * draw(st.integers(1, 90)))]
        record = {
            "label": label,
            "caption": draw(st.sampled_from(["", "a cat", "猫"])),
            "group": draw(st.integers(0, 2)),
        }
        kinds = draw(st.sampled_from([("cls",), ("json",), ("cls", "json"), ("txt", "json")]))
        texts = {"cls": label.encode(), "json": json.dumps(record).encode(), "txt": b"a text"}
        members += [(kind, texts[kind]) for kind in kinds]
        members += draw(st.sampled_from([[], [("seg.png", b"mask")], [("notes", b"")]]))
        found.append((key, draw(st.permutations(members))))
    return found


@given(found=samples(), format_=FORMATS)
def tars_are_read_as_webdataset_reads_them(found: list[tuple[str, list[tuple[str, bytes]]]], format_: int) -> None:
    """Compare every image and label with webdataset's."""
    with folder() as root:
        members = [(f"{key}.{end}", data) for key, members in found for end, data in members]
        config = write_tar(root / "a.tar", *members, format_=format_)
        pipeline = webdataset.WebDataset(config.path, shardshuffle=False, empty_check=False)
        expected = {each["__key__"]: each for each in pipeline}
        source, read = open_source(config), listed(config)
        assert not isinstance(read, SourceError), read
        assert [source.read(item) for item in read] == [image_of(expected[key]) for key, _ in found]
        labels = [each.get("cls") or json.loads(each["json"])["label"].encode() for each in expected.values()]
        assert [item.class_name.encode() for item in read] == labels


@given(found=samples(), format_=FORMATS, draw=st.data())
def tars_in_any_order_and_joined_are_read_as_tarfile_reads_them(
    found: list[tuple[str, list[tuple[str, bytes]]]], format_: int, draw: st.DataObject
) -> None:
    """Compare with the members that tarfile finds beyond the ends of joined tars."""
    members = draw.draw(st.permutations([(f"{key}.{end}", data) for key, members in found for end, data in members]))
    cut = draw.draw(st.integers(0, len(members)))
    with folder() as root:
        parts = [members[:cut], members[cut:]]
        data = b"".join(Path(write_tar(root / "part", *part, format_=format_).path).read_bytes() for part in parts)
        (root / "a.tar").write_bytes(data)
        config = TarSource(path=f"{root}/a.tar")
        source, read = open_source(config), listed(config)
        assert not isinstance(read, SourceError), read
        images = {}
        with tarfile.open(root / "a.tar", ignore_zeros=True) as second_reader:
            for info in second_reader:
                folder_name, _, base = info.name.rpartition("/")
                stem, _, end = base.partition(".")
                if end in PICTURE_ENDS:
                    content = second_reader.extractfile(info)
                    assert content is not None
                    images[f"{folder_name}/{stem}"] = content.read()
        assert sorted(source.read(item) for item in read) == sorted(images.values())
        assert len(read) == len(found)
        assert labels_are_those_of(read)


@given(found=samples(), draw=st.data(), kind=st.sampled_from(["tar", "csv", "tsv", "jsonl"]))
def any_bytes_are_read_or_refused_in_words(
    found: list[tuple[str, list[tuple[str, bytes]]]], draw: st.DataObject, kind: str
) -> None:
    """No other exception, whatever the bytes are, and a message of one line."""
    with folder() as root:
        if kind == "tar":
            members = [(f"{key}.{end}", data) for key, members in found for end, data in members]
            data = bytearray(Path(write_tar(root / "a.tar", *members).path).read_bytes())
        else:
            rows = [("0.jpg", key, members[0][1][:20].decode()) for key, members in found]
            if kind == "jsonl":
                text = "\n".join(json.dumps(dict(zip(("path", "label", "caption"), row, strict=True))) for row in rows)
            else:
                lines = [("path", "label", "caption"), *rows]
                text = "\n".join(("\t" if kind == "tsv" else ",").join(line) for line in lines)
            data = bytearray(text.encode())
        for _ in range(draw.draw(st.integers(1, 5))):
            place, size = draw.draw(st.integers(0, len(data))), draw.draw(st.integers(0, 30))
            data[place : place + size] = draw.draw(st.binary(max_size=30))
        path = root / f"a.{kind}"
        path.write_bytes(data)
        config = TarSource(path=str(path)) if kind == "tar" else TableSource(path=str(path))
        read = listed(config)
        if isinstance(read, SourceError):
            assert str(path) in str(read)
            return
        assert labels_are_those_of(read)
        if kind == "tar":
            source = open_source(config)
            for item in read:
                assert (
                    len(source.read(item)) == int(item.locator.rpartition(":")[2])
                    if not item.locator.endswith(":0")
                    else True
                )


@given(
    there=st.lists(st.from_regex(r"\A([ab]/){0,2}[a-d]{1,2}\Z"), max_size=90),
    asked=st.lists(st.from_regex(r"\A(\.\./|[ab]/){0,3}[a-d]{0,3}(\\[a-d])?\Z"), max_size=120),
)
def files_are_missing_where_none_is_found(there: list[str], asked: list[str]) -> None:
    """Compare with a look for each file."""
    with folder() as root:
        for name in there:
            path = root / "in" / name
            if not path.exists() and not any(parent.is_file() for parent in path.parents):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        (root / "in").mkdir(exist_ok=True)
        names = [*asked, *(f"a/{number}" for number in range(70))]
        expected = {name for name in names if not os.path.isfile(os.path.join(root, "in", name))}
        assert absent_files(str(root / "in"), names) == expected
        table = root / "in" / "t.csv"
        table.touch()
        assert missing_files(TableSource(path=str(table)), names) == sorted(expected)


TESTS: list[Callable[[], None]] = [
    tables_are_read_as_csv_and_pandas_read_them,
    lines_of_json_are_read_as_json_reads_them,
    tars_are_read_as_webdataset_reads_them,
    tars_in_any_order_and_joined_are_read_as_tarfile_reads_them,
    any_bytes_are_read_or_refused_in_words,
    files_are_missing_where_none_is_found,
]


@contextmanager
def folder() -> Iterator[Path]:
    """Give a folder with one image, which goes away."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "0.jpg").touch()
        yield Path(os.path.realpath(name))


def listed(config: TableSource | TarSource) -> list[SourceItem] | SourceError:
    try:
        return list(open_source(config).items())
    except SourceError as error:
        return error


def labels_are_those_of(items: list[SourceItem]) -> bool:
    """Return whether labels and class names are one to one, from 0 on."""
    pairs = {(item.label, item.class_name) for item in items}
    return sorted(label for label, _ in pairs) == list(range(len({name for _, name in pairs})))


def is_missing(text: str) -> bool:
    return text.strip() in MISSING | {""}


def text_of(value: object) -> str:
    """Return a JSON value as a label's text, "" for one that is missing."""
    if isinstance(value, str):
        return "" if is_missing(value) else value.strip()
    if value is None or isinstance(value, bool | list):
        return ""
    assert isinstance(value, int | float)
    if value != value or value in (float("inf"), float("-inf")):
        return ""
    return str(int(value)) if isinstance(value, int) or (value.is_integer() and abs(value) < 2**53) else str(value)


def class_of(label: str) -> str:
    """Return a label in NFC, 1.0 as 1."""
    name = unicodedata.normalize("NFC", label.strip())
    head, dot, tail = name.partition(".")
    is_whole = dot and tail and not tail.strip("0") and head.removeprefix("-").isdecimal() and head.isascii()
    return head if is_whole else name


def image_of(sample: dict[str, bytes]) -> bytes:
    """Return the image of webdataset's sample; it writes extensions in small letters."""
    return next(sample[end.lower()] for end in PICTURE_ENDS if end.lower() in sample)
