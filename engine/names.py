"""Names of classes and columns as people write them: when two are the same, and when a text names one."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

# Turkish has a dotted capital and a dotless small I; both are an i to a reader without the other.
_LETTERS = str.maketrans({"ı": "i", "\u0307": None, "’": "'", "‘": "'", "ʼ": "'"})
_SEPARATORS = re.compile(r"[\s_\-\u2010-\u2015]+")
_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")

# Scripts without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, kana, and Chinese characters.
_SPACELESS = (
    "\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
# Marks that belong to the letter before them, which \w leaves out: accents, vowel signs, and all of India's scripts.
_MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0966-\u0dff\u3099\u309a"
_SPACELESS_MARKS = "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd\u102b-\u103e\u17b4-\u17d3"
_LETTER = rf"(?:[^\W\d_{_SPACELESS}]|[{_MARKS}])"
_BEFORE = rf"(?<![^\W{_SPACELESS}])(?<![{_MARKS}])"
_AFTER = rf"(?![^\W{_SPACELESS}])(?![{_MARKS}{_SPACELESS_MARKS}])"
# Korean puts its particles behind a word.
_ENDS_OPEN = re.compile(rf"[{_SPACELESS}\uac00-\ud7af][{_MARKS}{_SPACELESS_MARKS}]*\Z")
_STARTS_OPEN = re.compile(f"[{_SPACELESS}]")

_CAMEL = re.compile(r"(?<=[a-z\d])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# An index before a name, as in "001.Black_footed_Albatross" and "n02085620-Chihuahua".
_INDEX = re.compile(r"\s*(?:n\d{8}|\d+)[\s._-]+(?=[^\W\d])")
_NO_WORD = re.compile(r"n\d{8}|[a-z]?")
# Between the parts of a name: "t-shirt", "t shirt" and "tshirt" are one.
_BETWEEN = "[ .'-]{0,2}"
# English endings of one and of many; ("f", "ves") makes leaves of leaf.
_PLURALS = (
    *(("man", "men"), ("child", "children"), ("person", "people"), ("foot", "feet"), ("tooth", "teeth")),
    *(("goose", "geese"), ("mouse", "mice"), ("louse", "lice"), ("ox", "oxen"), ("die", "dice")),
    *(("f", "ves"), ("fe", "ves"), ("y", "ies"), ("us", "i"), ("ex", "ices"), ("ix", "ices"), ("is", "es")),
    *(("um", "a"), ("a", "ae"), ("eau", "eaux")),
)
# Their singular is another word.
_PLURAL_ONLY = frozenset({"glasses", "shorts"})
# A part of a compound, such as Strand in Sandstrand: shorter ones are in many words by chance.
_MIN_PART = 4


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


def plain(text: str) -> str:
    """Return a text as phrases are looked for in it: lowered, underscores as spaces, single spaces, plain hyphens."""
    text = unicodedata.normalize("NFKC", lowered(_UNSEEN.sub("", text)))
    return " ".join(re.sub("[\u2010-\u2015]", "-", text.replace("_", " ")).split())


def phrase_pattern(phrase: str, text: str = "") -> re.Pattern[str]:
    """Return a pattern of a plain phrase as whole words, or as a part of compounds where a plain text has only these.

    A script without spaces has no borders of words. A part of a compound is of four letters or more, with as many
    beside it: Strand in Sandstrand.
    """
    whole = re.compile(_bounded(re.escape(phrase), phrase))
    if whole.search(text) or len(phrase) < _MIN_PART or not phrase.isalpha():
        return whole
    rest, part = f"{_LETTER}{{{_MIN_PART}}}", re.escape(phrase)
    parts = re.compile(rf"(?<={rest}){part}{_AFTER}|{_BEFORE}{part}(?={rest})")
    return parts if parts.search(text) else whole


def count_phrase(phrase: str, text: str) -> int:
    """Return how often a plain phrase stands in a plain text, as `phrase_pattern` finds it."""
    return len(phrase_pattern(phrase, text).findall(text))


def class_words(name: str, given: Mapping[str, Sequence[str]] = MappingProxyType({})) -> tuple[str, ...]:
    """Return the words that name a class: those `given` for it, else its name's, none for a WordNet id or a letter.

    "tench, Tinca tinca" and "T-shirt/top" are two each. What is in parentheses says which of two, and is left out.
    """
    if (own := given.get(nfc(name))) is not None:
        return tuple(own)
    parts = re.split(r"[,;/|]", re.sub(r"\([^)]*\)", " ", name))
    words = (plain(_CAMEL.sub(" ", each)) for part in parts for each in (_INDEX.sub("", part), part))
    return tuple(dict.fromkeys(word for word in words if not _NO_WORD.fullmatch(word)))


def named_class(phrase: str, words: Mapping[str, Sequence[str]]) -> str | None:
    """Return the class whose word a phrase names; of several the one with the longest word, None without any.

    `words` are the words of each class.
    """
    text = plain(phrase)
    named = [(len(word), name) for name, each in words.items() for word in each if count_phrase(word, text)]
    return max(named)[1] if named else None


def first_word(name: str, given: Mapping[str, Sequence[str]]) -> str:
    """Return the first of the words that name a class, the name as it is where there is none."""
    return (*class_words(name, given), name)[0]


def prompt_word(name: str, given: Mapping[str, Sequence[str]]) -> str:
    """Return how a prompt calls a class: by the first word `given` for it, else by its name as it is."""
    return given.get(nfc(name), [name])[0]


def find_class(text: str, words: Iterable[str]) -> list[str]:
    """Return the parts of a text that name a class by one of its words.

    Case, spaces, hyphens and the number of a noun do not count, nor do the endings of Slavic cases, nor an Arabic or
    Hebrew article. Where no word stands by itself, compounds that end with one name it: "Sheepdog" names a dog.
    """
    text, words = plain(text), tuple(words)
    return _class_pattern(words).findall(text) or _class_pattern(words, compound=True).findall(text)


def names_class(caption: str, words: Iterable[str]) -> bool:
    """Return whether a caption names a class by one of its words, such as `class_words` gives."""
    return bool(find_class(caption, words))


def count_named(captions: Iterable[tuple[str, str]], given: Mapping[str, Sequence[str]]) -> int:
    """Return how many captions name their class; each comes with its class, whose words may be `given`."""
    return sum(names_class(caption, class_words(name, given)) for caption, name in captions)


def _bounded(body: str, phrase: str) -> str:
    """Return the pattern `body` between the borders of words that the phrase's script has."""
    before = "" if _STARTS_OPEN.match(phrase) else _BEFORE
    return f"{before}{body}{f'(?![{_SPACELESS_MARKS}])' if _ENDS_OPEN.search(phrase) else _AFTER}"


@lru_cache(4096)
def _class_pattern(words: tuple[str, ...], *, compound: bool = False) -> re.Pattern[str]:
    found: dict[str, str] = {}
    for word in map(plain, words):
        tokens = [token for token in re.split(r"[ .'-]+", word) if token]
        if not tokens or (compound and not _ends_compounds(word, tokens)):
            continue
        for last in _numbers(tokens[-1]):
            body = _BETWEEN.join(map(_inflected, [*tokens[:-1], last]))
            # A hyphen ends a word, so that what is before it is no part of this one.
            head = f"{_LETTER}{{{_MIN_PART - 1},}}" if compound else ""
            found[_bounded(f"{head}{_article(word)}{body}", word)] = body
    longest = sorted(found, key=lambda each: len(found[each]), reverse=True)
    return re.compile("|".join(f"(?:{each})" for each in longest) or r"(?!)")


def _ends_compounds(word: str, tokens: Sequence[str]) -> bool:
    """Return whether a compound may end with a word: not with a short one, nor with "king", as walking does."""
    return len(tokens) == 1 and len(word) >= _MIN_PART and not (word.endswith("ing") or _STARTS_OPEN.match(word))


def _inflected(token: str) -> str:
    """Return a pattern of one word of a name: with Slavic endings, or with a hyphen or an apostrophe in it."""
    stem = re.sub("[аеёийоуыьэюя]+$", "", token)
    if re.fullmatch("[\u0400-\u04ff]{3,}", stem):
        return f"{re.escape(stem)}[аеёийоуыьэюявгмх]{{0,3}}"
    if not token.isascii():
        return re.escape(token)
    # "retriever" may be written in two words, of three letters and more each.
    gaps = ["[ '-]?" if 3 <= place <= len(token) - 3 else "['-]?" for place in range(1, len(token))]
    return "".join(re.escape(letter) + gap for letter, gap in zip(token, [*gaps, ""], strict=True))


def _article(word: str) -> str:
    if re.match("[\u0600-\u06ff]", word):
        return "(?:[وفبكل]?ال|لل|[وفبكل])?"
    return "[והבלכמש]{0,2}" if re.match("[\u05d0-\u05ea]", word) else ""


def _numbers(noun: str) -> set[str]:
    """Return what an English noun can be in the singular and in the plural, wrong guesses among it."""
    if not re.fullmatch("[a-z\u00df-\u024f]{2,}", noun):
        return {noun}
    found = {noun, f"{noun}es" if noun.endswith(("s", "x", "z", "ch", "sh")) else f"{noun}s"}
    if noun.endswith("o"):
        found.add(f"{noun}es")
    for one, many in _PLURALS:
        if noun.endswith(one):
            found.add(noun.removesuffix(one) + many)
        if noun.endswith(many) and (len(noun) > len(many) or len(many) > 2):
            found.add(noun.removesuffix(many) + one)
    if len(noun) > 3 and noun.endswith("s") and not noun.endswith(("ss", "us", "is")):
        found.add(noun[:-1])
        if noun.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
            found.add(noun[:-2])
    return found - ({noun[:-1], noun[:-2]} if noun in _PLURAL_ONLY else set())
