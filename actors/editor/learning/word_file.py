"""The file of a learned word, learned.safetensors: its vectors, its value, and the model whose word it is."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from engine.errors import ModelError
from engine.runfile.editor import AdapterConfig

FILE = "learned.safetensors"
# The name of its metadata.
KIND = "counterforge_token"


@dataclass(frozen=True, kw_only=True)
class LearnedWord:
    """A word of an editor: `vectors` (num_vectors, width) float32, one for each of its tokens, in their order.

    Edits whose `after` is `value` are drawn with it. `model_digest` is that of the editor that it was learned for.
    `settings` is a digest of all that the vectors follow from.
    """

    value: str
    vectors: NDArray[np.float32]
    model: str
    model_digest: str
    settings: str

    def to_bytes(self) -> bytes:
        """Return the file: one tensor named `<value>`, which the textual inversion loader of diffusers reads too."""
        about = {name: value for name, value in vars(self).items() if name != "vectors"}
        # Under one name: safetensors writes several in an order of chance.
        return save({f"<{self.value}>": self.vectors}, metadata={KIND: json.dumps(about, sort_keys=True)})


@dataclass(frozen=True, kw_only=True)
class WordFile:
    """A learned word that was read from a file; `digest` are the first 16 hex digits of the file's SHA-256."""

    word: LearnedWord
    digest: str


def read_word(folder: Path) -> WordFile:
    """Return the word in a folder that `counterforge learn` wrote; raises ModelError where there is none."""
    path = folder / FILE
    try:
        content = path.read_bytes()
        with safe_open(path, framework="numpy") as file:
            about, names = (file.metadata() or {}).get(KIND), list(file.keys())
            vectors = file.get_tensor(names[0]) if len(names) == 1 else None
        if about is None or vectors is None:
            raise ModelError(f"{path} was not written by `counterforge learn`: name the folder that it wrote")
        word = LearnedWord(vectors=vectors, **json.loads(about))
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} has no {FILE}: name the folder that `counterforge learn RUN --after VALUE --as token` wrote"
        ) from error
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise ModelError(f"{path} cannot be read ({error}): learn the word again, or restore the file") from error
    return WordFile(word=word, digest=hashlib.sha256(content).hexdigest()[:16])


def read_adapter(adapter: AdapterConfig) -> WordFile:
    """Return the word that an editor's configuration names; raises ModelError where it is another one."""
    found = read_word(Path(adapter.path))
    if found.word.value != adapter.value:
        raise ModelError(f"{adapter.path} is a word for {found.word.value!r}, not for {adapter.value!r}: correct value")
    if adapter.digest is not None and found.digest != adapter.digest:
        raise ModelError(
            f"{adapter.path} has the digest {found.digest}, the run file asks for {adapter.digest}: restore that file, "
            "or change digest and give the run another --out"
        )
    return found
