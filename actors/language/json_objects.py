"""The JSON objects in what a language model writes, whatever it writes around them."""

import json
import re
from typing import Any

from engine.untrusted_json import check_text

# What a model thinks ends so, and starts so where its tokens were used up before the end.
_THOUGHT = re.compile(r"</(?:think|thinking|thought|reasoning)>|\[/THINK\]", re.IGNORECASE)
_UNENDED = re.compile(r"<(?:think|thinking|thought|reasoning)>|\[THINK\]", re.IGNORECASE)
_OBJECT = re.compile(r'\{\s*"')
_TRAILING = re.compile(r",\s*[}\]]")
MAX_TRAILING, MAX_BEGUN = 16, 256


class DuplicateKeyError(ValueError):
    """A key that an object has twice."""


def json_objects(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects of a text behind its thinking, in their order, none of them inside another.

    Code fences, sentences and end tokens around them count nothing, nor does a comma before a closing bracket. Raises
    ValueError where there is none, or where one cannot be stored again, and DuplicateKeyError.
    """
    answer = _UNENDED.split(_THOUGHT.split(text)[-1])[0]
    objects, end, problem, num_begun = [], 0, "", 0
    while begun := _OBJECT.search(answer, end):
        num_begun += 1
        if num_begun > MAX_BEGUN:
            raise ValueError(f"more than {MAX_BEGUN} objects begin in it")
        try:
            value, end = _object_at(answer, begun.start())
        except (json.JSONDecodeError, RecursionError) as error:
            # The last one tells most: an answer that was cut off ends in it.
            problem = f": {error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            end = begun.start() + 1
        else:
            # An escape can make half of a surrogate pair, which no file can hold.
            check_text(json.dumps(value, ensure_ascii=False))
            objects.append(value)
    if not objects:
        empty = "" if answer.strip() else " but thinking, if that: raise max_new_tokens, or switch its thinking off"
        raise ValueError(f"no JSON object{problem}{empty}")
    return objects


def _object_at(text: str, place: int) -> tuple[dict[str, Any], int]:
    """Return the object that begins at a place, and where it ends; JSONDecodeError where none does."""
    for _ in range(MAX_TRAILING):
        try:
            value, end = DECODER.raw_decode(text, place)
        except json.JSONDecodeError as error:
            comma = text.rfind(",", place, error.pos + 1)
            found = _TRAILING.match(text, comma) if comma >= 0 else None
            # Python 3.13 points at the comma, those before at what is behind it.
            if found is None or not found.start() <= error.pos < found.end():
                raise
            text = f"{text[:comma]} {text[comma + 1 :]}"
        else:
            return value, end
    raise json.JSONDecodeError("too many commas at the end", text, place)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        twice = next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place]))
        raise DuplicateKeyError(f"the key {twice!r} is there twice")
    return result


# As a float, since Python reads no integer of thousands of digits.
DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=float)
