"""The file learned.safetensors of what an editor learned: tensors, and what they are in its metadata."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from engine.errors import ModelError
from engine.runfile.editor import AdapterKind

FILE = "learned.safetensors"
# With the kind behind it the name of the metadata.
PREFIX = "counterforge_"

Thing = TypeVar("Thing")


@dataclass(frozen=True, kw_only=True)
class LearnedFile:
    """A file that was read: `about` is its metadata, `digest` are the first 16 hex digits of the file's SHA-256."""

    kind: AdapterKind
    about: dict[str, Any]
    tensors: dict[str, NDArray[np.float32]]
    digest: str


@dataclass(frozen=True, kw_only=True)
class FileOf(Generic[Thing]):
    """What was learned, as it was read from a file; `digest` are the first 16 hex digits of the file's SHA-256."""

    learned: Thing
    digest: str


def learned_bytes(kind: AdapterKind, about: Mapping[str, Any], tensors: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Return the file of tensors and what they are."""
    # Under one name: safetensors writes several in an order of chance.
    return save(dict(tensors), metadata={f"{PREFIX}{kind}": json.dumps(about, sort_keys=True)})


def damaged(folder: Path, error: Exception) -> ModelError:
    """Return what is said of a file in a folder that cannot be read."""
    return ModelError(f"{folder / FILE} cannot be read ({error}): learn it again, or restore the file")


def read_learned(folder: Path) -> LearnedFile:
    """Return the file in a folder that `counterforge learn` wrote; raises ModelError where there is none."""
    path = folder / FILE
    try:
        content = path.read_bytes()
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            kinds: list[AdapterKind] = [kind for kind in get_args(AdapterKind) if f"{PREFIX}{kind}" in metadata]
            if len(kinds) != 1:
                raise ModelError(f"{path} was not written by `counterforge learn`: name the folder that it wrote")
            about = json.loads(metadata[f"{PREFIX}{kinds[0]}"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} has no {FILE}: name the folder that `counterforge learn RUN --after VALUE --as token` (or lora) "
            "wrote"
        ) from error
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise damaged(folder, error) from error
    digest = hashlib.sha256(content).hexdigest()[:16]
    return LearnedFile(kind=kinds[0], about=about, tensors=tensors, digest=digest)


def called(kind: AdapterKind) -> str:
    """Return what a kind is called in a sentence."""
    return "a LoRA" if kind == "lora" else "a learned word"


def read_kind(folder: Path, kind: AdapterKind) -> LearnedFile:
    """Return the file in a folder; raises ModelError where it is of another kind."""
    found = read_learned(folder)
    if found.kind != kind:
        raise ModelError(
            f"{folder / FILE} is {called(found.kind)} and not {called(kind)}: write kind: {found.kind} in its entry of "
            "adapters, or name another folder"
        )
    return found
