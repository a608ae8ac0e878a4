"""Decision files: one JSON file a round; the markers of the shards made by it name it by its SHA-256."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from engine.errors import RunDirectoryError
from engine.run.directory import RunDirectory

T = TypeVar("T")


def decision_path(folder: str, number: int) -> str:
    """Return the path of a round's decision in a folder of the run directory."""
    return f"{folder}/{number:03d}.json"


def read_decision(
    rundir: RunDirectory, path: str, parse: Callable[[dict[str, Any]], T], *, name: str, remedy: str
) -> T:
    """Read a decision; RunDirectoryError, with the kind's name and the remedy, where `parse` cannot read it."""
    content = cast(dict[str, Any], rundir.read_json(path))
    try:
        return parse(content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RunDirectoryError(
            f"{rundir.storage.name(path)} is no {name} that this version wrote ({error!r}): go on with the version "
            f"that did, or {remedy}"
        ) from error
