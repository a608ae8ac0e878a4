"""The rows of a CSV, TSV or JSONL as columns, some thousands at a time."""

import csv
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple, TextIO

from engine.errors import SourceError
from engine.names import nfc
from engine.sources.labels import attribute_text, composed, known_texts, value_text
from engine.untrusted_json import loads_outside
from engine.wording import name_some

REQUIRED = ("path", "label")
COLUMNS = (*REQUIRED, "caption", "group")
ROWS_AT_ONCE = 8_192
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})


class Rows(NamedTuple):
    """Some rows as columns, with the line of each; "" where the table lacks the column or has no value."""

    lines: Sequence[int]
    path: Sequence[str]
    label: Sequence[str]
    caption: Sequence[str]
    group: Sequence[str]
    attributes: Sequence[Mapping[str, str]]


def read_rows(table: str, attributes: Sequence[str]) -> Iterator[Rows]:
    """Yield the rows of a table with these further columns; raise SourceError where it is none."""
    return _json_rows(table, attributes) if table.lower().endswith(".jsonl") else _csv_rows(table, attributes)


def table_columns(table: str) -> list[str]:
    """Return the names of a table's columns, of a JSONL those of its first record; none where it cannot be read."""
    with _decoded(table) as file:
        try:
            if not table.lower().endswith(".jsonl"):
                return [name for name in _header(csv.reader(file, delimiter=_delimiter(table))) if name]
            record = loads_outside(next(filter(str.strip, file), ""))
        except (csv.Error, ValueError):
            return []
        return list(record) if isinstance(record, dict) else []


def _csv_rows(table: str, attributes: Sequence[str]) -> Iterator[Rows]:
    spans: list[tuple[int, int]] = []
    with _decoded(table) as file:
        reader = csv.reader(file, delimiter=_delimiter(table))
        try:
            header = _header(reader)
            _check_columns(table, header, attributes)
            filled, last = filter(None, reader), reader.line_num
            while batch := [(reader.line_num, cells) for cells in islice(filled, ROWS_AT_ONCE)]:
                if batch[-1][0] - last != len(batch):
                    starts = [last, *(line for line, _ in batch)]
                    spans += [(start, end) for start, (end, _) in zip(starts, batch, strict=False) if end - start > 1]
                last = batch[-1][0]
                yield _in_columns(table, header, attributes, batch)
        except csv.Error as error:
            raise SourceError(f"{table}, line {reader.line_num}: not a table: {error}") from error
    _check_quotes(table, spans)


def _check_quotes(table: str, spans: Sequence[tuple[int, int]]) -> None:
    """Refuse rows of several lines whose quotes do not match: such a quote swallows the rows that follow it."""
    if not spans:
        return
    with _decoded(table) as file:
        read = 0
        for start, end in spans:
            lines = list(islice(file, start - read, end - read))
            read = end
            try:
                list(csv.reader(lines, delimiter=_delimiter(table), strict=True))
            except csv.Error as error:
                first = start + 1 + next((at for at, line in enumerate(lines) if '"' in line), 0)
                raise SourceError(
                    f"{table}, line {first}: a quote that opens here takes in the lines up to {end} ({error}): close "
                    "it, or double it inside of a quoted cell"
                ) from error


def _header(reader: Iterator[list[str]]) -> list[str]:
    return [nfc(name.strip()) for name in next(reader, [])]


def _delimiter(table: str) -> str:
    return "\t" if table.lower().endswith(".tsv") else ","


def _check_columns(table: str, header: Sequence[str], attributes: Sequence[str]) -> None:
    other = next((each for each in SEPARATORS if each != _delimiter(table) and each in "".join(header[:1])), None)
    for name in (*REQUIRED, *attributes):
        if nfc(name) in header:
            continue
        if len(header) == 1 and other:
            raise SourceError(
                f"{table}: its cells are separated by {SEPARATORS[other]}, expected are "
                f"{SEPARATORS[_delimiter(table)]}: save it so (.csv: commas, .tsv: tabs)"
            )
        purpose = "needed are path and label" if name in REQUIRED else "`attributes` asks for it"
        columns = f"its columns are {name_some([each for each in header if each])}" if header else "it is empty"
        close = next((f": write {each!r} as {name!r}" for each in header if each.casefold() == name.casefold()), "")
        raise SourceError(f"{table} has no column {name!r}: {purpose}; {columns}{close}")
    doubled = sorted({name for name in header if name and header.count(name) > 1})
    if doubled:
        raise SourceError(f"{table}: column {name_some(doubled)} occurs twice; rename one of the two")


def _in_columns(
    table: str, header: Sequence[str], attributes: Sequence[str], batch: Sequence[tuple[int, list[str]]]
) -> Rows:
    width = len(header)
    if {len(cells) for _, cells in batch} != {width}:
        batch = [(line, _cut(cells, width)) for line, cells in batch if any(map(str.strip, cells))]
        if odd := next(((line, len(cells)) for line, cells in batch if len(cells) != width), None):
            raise SourceError(
                f"{table}, line {odd[0]}: {odd[1]} cells, the header has {width}; quote cells that hold the separator"
            )
    places = [header.index(name) if name in header else None for name in COLUMNS]
    if not all(cells[places[0] or 0] for _, cells in batch):
        batch = [(line, cells) for line, cells in batch if any(map(str.strip, cells))]
    path, label, caption, group = (
        [""] * len(batch) if at is None else [cells[at].strip() for _, cells in batch] for at in places
    )
    kept = [known_texts([cells[at].strip() for _, cells in batch]) for at in map(header.index, map(nfc, attributes))]
    return Rows([line for line, _ in batch], path, label, caption, group, _mappings(attributes, kept, len(batch)))


def _cut(cells: list[str], width: int) -> list[str]:
    """Return a row without the empty cells that spreadsheets leave behind the last column."""
    return cells if any(cells[width:]) else cells[:width]


def _json_rows(table: str, attributes: Sequence[str]) -> Iterator[Rows]:
    wanted = list(map(nfc, attributes))
    unseen = set(wanted)
    with _decoded(table) as file:
        filled = ((line, text) for line, text in enumerate(file, start=1) if text.strip())
        while batch := list(islice(filled, ROWS_AT_ONCE)):
            records = [_record(table, line, text) for line, text in batch]
            if unseen:
                unseen.difference_update(*records)
            path, label, caption, group = ([value_text(record.get(name)) for record in records] for name in COLUMNS)
            kept = [known_texts([attribute_text(record.get(name)) for record in records]) for name in wanted]
            mappings = _mappings(attributes, kept, len(batch))
            yield Rows([line for line, _ in batch], path, label, caption, group, mappings)
    if unseen:
        raise SourceError(f"{table}: no row has {name_some(sorted(unseen))}, which `attributes` asks for")


def _mappings(names: Sequence[str], columns: Sequence[Sequence[str]], count: int) -> list[Mapping[str, str]]:
    """Return the attributes of each row, "" for those that are missing."""
    if not names:
        return [NO_ATTRIBUTES] * count
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _record(table: str, line: int, text: str) -> dict[str, object]:
    try:
        record = loads_outside(text)
    except ValueError as error:
        raise SourceError(f'{table}, line {line}: {error}; expected {{"path": "a/1.jpg", "label": "cat"}}') from error
    if not isinstance(record, dict):
        raise SourceError(f"{table}, line {line}: expected an object, got {text[:40]!r}")
    missing = [name for name in REQUIRED if record.get(name) is None]
    if missing:
        raise SourceError(f"{table}, line {line}: no field {name_some(missing)}; it has {name_some([*record])}")
    # More colons than fields: a text has one, or a field occurs twice, of which the last one would count.
    if text.count(":") > len(record) and (doubled := _doubled(text)):
        raise SourceError(f"{table}, line {line}: it has {name_some(doubled)} twice; expected each field once")
    if isinstance(record["label"], list | dict):
        label = str(record["label"])[:40]
        raise SourceError(f"{table}, line {line}: label is {label}, expected the name or number of one class")
    return composed(record)


def _doubled(text: str) -> list[str]:
    """Return the fields that an object has more than once."""
    pairs: list[tuple[str, object]] = []

    def keep(found: list[tuple[str, object]]) -> None:
        pairs[:] = found  # the last ones are those of the whole

    loads_outside(text, keep)
    return sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)


@contextmanager
def _decoded(table: str) -> Iterator[TextIO]:
    with open(table, "rb") as start:
        wide = start.read(2) in (BOM_UTF16_LE, BOM_UTF16_BE)  # Excel's "Unicode text"
    try:
        with open(table, encoding="utf-16" if wide else "utf-8-sig", newline="") as file:
            yield file
    except UnicodeError as error:
        why = f"{error.reason} at byte {error.start}" if isinstance(error, UnicodeDecodeError) else str(error)
        raise SourceError(f"{table} is not {'UTF-16' if wide else 'UTF-8'}: {why}; save it as UTF-8") from error
