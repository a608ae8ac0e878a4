"""The file of a learned word: its vectors, its value, and the model whose word it is."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.editor.learning.learned_file import FileOf, damaged, learned_bytes, read_kind


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
        return learned_bytes("token", about, {f"<{self.value}>": self.vectors})


def read_word(folder: Path) -> FileOf[LearnedWord]:
    """Return the word in a folder that `counterforge learn` wrote; raises ModelError where there is none."""
    found = read_kind(folder, "token")
    try:
        (vectors,) = found.tensors.values()
        return FileOf(learned=LearnedWord(vectors=vectors, **found.about), digest=found.digest)
    except (ValueError, TypeError) as error:
        raise damaged(folder, error) from error
