"""Labels, groups and attributes as text: what counts as missing, and which spellings are one name."""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from engine.errors import SourceError
from engine.names import nfc
from engine.wording import name_some

# What pandas.read_csv takes for missing, without "". A class that is called so is named in `classes`.
MISSING = frozenset({
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>",
    "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
})  # fmt: skip
# Above, a float does not hold every integer.
MAX_INTEGER = 2.0**53
# More different values than so many, and than half of the images, are no groups.
MAX_VALUES = 20

_INTEGRAL = re.compile(r"(-?\d+)\.0+", re.ASCII)


def value_text(value: object) -> str:
    """Return a text or a number as text, 1.0 as "1"; "" for another type, NaN and infinity."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    return str(int(value)) if abs(value) < MAX_INTEGER and value == int(value) else str(value)


def attribute_text(value: object) -> str:
    """Return any value as text as `value_text` does, "" for None."""
    return value_text(value) or ("" if value is None or isinstance(value, str | float) else str(value))


def without_missing(texts: Sequence[str]) -> Sequence[str]:
    """Return texts, "" for those that mean missing; the same object where none does."""
    return texts if MISSING.isdisjoint(texts) else ["" if text in MISSING else text for text in texts]


def known_texts(texts: Sequence[str]) -> Sequence[str]:
    """Return `without_missing`, in NFC."""
    known = without_missing(texts)
    return known if "".join(known).isascii() else list(map(nfc, known))


def known_text(text: str) -> str:
    """Return a text in NFC, "" for one that means missing."""
    return "" if text in MISSING else text if text.isascii() else nfc(text)


def group_texts(texts: Sequence[str]) -> Sequence[str]:
    """Return the texts of groups as `known_texts` does, and "1.0" as "1"."""
    known = known_texts(texts)
    return [_whole(text) for text in known] if ".0" in "".join(known) else known


def composed(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the names of its fields in NFC."""
    return record if "".join(record).isascii() else {nfc(name): value for name, value in record.items()}


def class_names(names: Iterable[str], where: str) -> tuple[str, ...]:
    """Return the names of `classes` in NFC; SourceError where two are equal."""
    found = tuple(map(nfc, names))
    if doubled := [name for place, name in enumerate(found) if name in found[:place]]:
        raise SourceError(f"{where}: `classes` holds {name_some(doubled)} twice: name each class once")
    return found


def name_class(label: str, classes: Collection[str], where: str) -> str:
    """Return the class of a label: its name in NFC, "1.0" as "1"; `classes` names the integers.

    Raises SourceError for a label that means missing and for one that `classes` does not have.
    """
    name = nfc(label)
    if name in classes:
        return name
    name = _whole(name)
    if not classes:
        if name in MISSING:
            raise SourceError(
                f"{where}: label {label!r} counts as missing: give one, or list every class in `classes` "
                f"where one is called {label!r}"
            )
        return name
    if name.isascii() and name.isdecimal() and int(name) < len(classes):
        return list(classes)[int(name)]
    raise SourceError(
        f"{where}: label {label!r} is not one of `classes` ({name_some([*classes])}) nor a number below {len(classes)}"
    )


def sort_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Return class names in order: by number where all are integers, else by text."""
    found = set(names)
    if all(name.isdecimal() and name.isascii() for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def leading_zeros(classes: Iterable[str]) -> list[str]:
    """Return a remark for each number that occurs with and without leading zeros, such as 007 and 7."""
    spellings: dict[str, list[str]] = {}
    for name in classes:
        if name.isascii() and name.isdecimal():
            spellings.setdefault(name.lstrip("0"), []).append(name)
    return [
        f"classes {name_some(names)} are different names of one number: are they one class?"
        for names in spellings.values()
        if len(names) > 1
    ]


def repeated_fields(records: Sequence[Mapping[str, object]]) -> tuple[str, ...]:
    """Return the fields that at least half of the records have, as text or number, and whose values occur repeatedly.

    Those in which most records differ (an id, a size, a URL) part images into groups of one.
    """
    fields = dict.fromkeys(name for record in records for name in record)
    found = []
    for name in fields:
        values = [value for value in map(attribute_text, _scalars(records, name)) if value and value not in MISSING]
        if 2 * len(values) >= len(records) and len(set(values)) <= max(MAX_VALUES, len(values) // 2):
            found.append(name)
    return tuple(found)


def _scalars(records: Sequence[Mapping[str, object]], name: str) -> Iterator[object]:
    values = (record.get(name) for record in records)
    return (value for value in values if isinstance(value, str | int | float))


def _whole(text: str) -> str:
    match = _INTEGRAL.fullmatch(text)
    return match[1] if match else text
