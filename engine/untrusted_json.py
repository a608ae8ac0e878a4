"""Untrusted JSON, of users, tars and language models: every defect is a ValueError with a readable message."""

import json
from collections.abc import Callable
from typing import Any


def loads_outside(text: str, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:  # noqa: ANN401 JSON
    """Return the value of a JSON text; ValueError for bad syntax, or for content that cannot be stored again.

    json.loads also raises RecursionError, and a plain ValueError for a number of more than 4,300 digits, and accepts
    half of a surrogate pair, which UTF-8 cannot encode.
    """
    try:
        value = json.loads(text, object_pairs_hook=object_pairs_hook)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("not JSON to be read: nested too deeply") from error
    except ValueError as error:
        raise ValueError("a number has thousands of digits") from error
    # Only an escape can produce one: decoded text has none.
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
