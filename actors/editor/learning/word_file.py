"""The file of a learned word: its vectors, its value, and the model whose word it is."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from actors.editor.learning.learned_file import FILE, read_kind
from engine.errors import ModelError

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
    found = read_kind(folder, "token")
    try:
        (vectors,) = found.tensors.values()
        return WordFile(word=LearnedWord(vectors=vectors, **found.about), digest=found.digest)
    except (ValueError, TypeError) as error:
        raise ModelError(f"{folder / FILE} cannot be read ({error}): learn it again, or restore the file") from error
