"""Records as JSON in one form: flat objects without NaN, sorted bytes, and the digests of these."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from engine.statistics import Interval


def as_json(value: Any) -> Any:  # noqa: ANN401 # a dataclass or any JSON content in, JSON content out
    """Return a record as plain JSON: dataclasses as objects, or as their own `to_json` says; NaN and infinity as null.

    An Interval in a field or under a key `name` becomes the three numbers `name`, `name_low` and `name_high`.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case list() | tuple():
            return [as_json(item) for item in value]
        case Mapping():
            content: dict[str, Any] = {}
            for name, item in value.items():
                if isinstance(item, Interval):
                    content |= as_json({f"{name}": item.value, f"{name}_low": item.low, f"{name}_high": item.high})
                else:
                    content[str(name)] = as_json(item)
            return content
        case _ if hasattr(value, "to_json"):
            return value.to_json()
        case _:
            return as_json({field.name: getattr(value, field.name) for field in fields(value)})


def indented_json(content: object) -> bytes:
    """Return JSON content as the files of a run directory have it: indented by 1, names sorted, UTF-8, a line's end."""
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def json_digest(content: object) -> str:
    """Return the first 16 hex digits of the SHA-256 of JSON content with sorted names."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
