"""Decision files: one JSON file a round; the markers of the shards made by it name it by its SHA-256."""

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from engine.errors import RunDirectoryError
from engine.run.directory import RunDirectory

T = TypeVar("T")


def decision_path(folder: str, number: int) -> str:
    """Return the path of a round's decision in a folder of the run directory."""
    return f"{folder}/{number:03d}.json"


def read_decision(rundir: RunDirectory, path: str, kind: type[T], *, name: str, remedy: str) -> T:
    """Read the record of a decision; RunDirectoryError, with its name and the remedy, where the file has another."""
    content = rundir.read_json(path)
    try:
        return TypeAdapter(kind).validate_python(content, extra="forbid")
    except ValidationError as error:
        raise RunDirectoryError(
            f"{rundir.storage.name(path)} is no {name} that this version wrote ({error!r}): go on with the version "
            f"that did, or {remedy}"
        ) from error
