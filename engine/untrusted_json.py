"""JSON from outside: of users, of tars, of language models. What is wrong with it is a ValueError in words."""

import json
from collections.abc import Callable
from typing import Any


def loads_outside(text: str, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:  # noqa: ANN401 JSON
    """Return the value of a JSON text; ValueError says why it is none, or why it could not be stored again.

    Beside bad syntax json.loads raises RecursionError, and a bare ValueError for a number of more than 4,300 digits.
    Half of a surrogate pair is a string to it that no file can hold.
    """
    try:
        value = json.loads(text, object_pairs_hook=object_pairs_hook)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("not JSON to be read: nested too deeply") from error
    except ValueError as error:
        raise ValueError("a number has thousands of digits") from error
    # Only an escape can bring one in: text that was decoded has none.
    if "\\ud" in text.lower():
        check_text(json.dumps(value, ensure_ascii=False))
    return value


def check_text(text: str) -> str:
    """Return a text; ValueError where it holds half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half of a surrogate pair, {text[error.start]!a}: no file can hold it") from error
    return text
