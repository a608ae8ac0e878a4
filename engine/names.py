"""Names of classes and columns as people write them: when two are the same."""

import re
import unicodedata
from collections.abc import Iterable

# Turkish has a dotted capital and a dotless small I; both are an i to a reader without the other.
_LETTERS = str.maketrans({"ı": "i", "\u0307": None, "’": "'", "‘": "'", "ʼ": "'"})
_SEPARATORS = re.compile(r"[\s_\-\u2010-\u2015]+")


def nfc(text: str) -> str:
    """Return a text in Unicode's composed form: macOS writes é as e and an accent."""
    return unicodedata.normalize("NFC", text)


def lowered(text: str) -> str:
    """Return a text as it is compared without regard to case: composed, small letters, straight apostrophes."""
    return nfc(unicodedata.normalize("NFC", text.casefold()).translate(_LETTERS))


def folded(name: str) -> str:
    """Return a class name as it is compared: lowered, without spaces, hyphens and underscores."""
    return _SEPARATORS.sub("", lowered(name))


def synonyms(name: str) -> list[str]:
    """Return the names that commas separate ("tench, Tinca tinca"), the whole one first."""
    parts = [part.strip() for part in name.split(",")]
    return list(dict.fromkeys([name, *(part for part in parts if part)]))


def same_names(names: Iterable[str]) -> list[list[str]]:
    """Return the groups of names that are equal when folded, each of two or more, in the order of the names."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(folded(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]
