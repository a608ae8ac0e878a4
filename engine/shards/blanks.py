"""Blanks: what stands for a value that a record lacks, so that all records of a shard have one type."""

import json
import math
from collections.abc import Mapping
from typing import cast

from engine.sample import Json

# The value of a field of `provenance` that a sample lacks: it shows the type. None: of no known type yet.
Blank = None | str | int | float | bool | dict[str, "Blank"]


def blank_of(value: Json) -> Blank:
    """Return the blank of a value: of a list "", as a list is stored as a text."""
    match value:
        case None:
            return None
        case bool():
            return False
        case int():
            return 0
        case float():
            return math.nan
        case dict():
            return {name: blank_of(each) for name, each in value.items()}
        case _:
            return ""


def joined(one: Blank, other: Blank) -> Blank:
    """Return the blank of values of both types; of a text where they are of types that do not go together."""
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: joined(one.get(name), other.get(name)) for name in {**one, **other}}
    if type(one) is type(other):
        return one
    return math.nan if {type(one), type(other)} == {int, float} else ""


def settled(blank: Blank) -> Blank:
    """Return a blank in which what was never anything but None is a text, names in order."""
    if isinstance(blank, dict):
        return {name: settled(blank[name]) for name in sorted(blank)}
    return "" if blank is None else blank


def noted(provenance: Mapping[str, Json], name: str) -> Json:
    """Return what was noted under a name, None where that is nothing but blanks: it is not in the fields either."""
    value = provenance.get(name)
    return None if is_blank(value) else value


def filled(value: Json, blank: Blank) -> Json:
    """Return a value with a blank for each field that it lacks, in the types of `blank`."""
    if isinstance(blank, dict):
        mapping = value if isinstance(value, dict) else {}
        return {name: filled(mapping.get(name), each) for name, each in blank.items()}
    if value is None or value != value:
        return cast(Json, blank)
    match blank:
        case str():
            if isinstance(value, list):
                return ", ".join(map(str, value))
            return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
        case float():
            if math.isinf(cast(float, value)):
                raise ValueError(f"{value} is not JSON compliant")
            return float(cast(float, value))
        case _:
            return value


def is_blank(value: Json) -> bool:
    """Return whether a value is None, empty, 0, False or NaN, or a mapping of nothing else."""
    if isinstance(value, dict):
        return all(map(is_blank, value.values()))
    return not value or value != value
