"""The file of a learned LoRA: the factors of each layer, its value, and the model whose UNet they are for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.editor.learning.learned_file import FileOf, damaged, learned_bytes, read_kind

PREFIX, DOWN, UP = "unet.", ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, kw_only=True)
class LearnedLora:
    """A LoRA of an editor: A (rank, in) and B (out, rank), float32, by the name of the layer in its UNet.

    Edits whose `after` is `value` are drawn with it, and with `word` in place of the value in their texts.
    `model_digest` is that of the editor that it was learned for. `settings` is a digest of all that it follows from.
    """

    value: str
    word: str
    factors: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
    model: str
    model_digest: str
    settings: str

    def to_bytes(self) -> bytes:
        """Return the file, with peft's names of tensors, which `load_lora_weights` of diffusers reads too."""
        about = {name: value for name, value in vars(self).items() if name != "factors"}
        tensors = {
            f"{PREFIX}{layer}{end}": np.ascontiguousarray(factor)
            for layer, pair in self.factors.items()
            for end, factor in zip((DOWN, UP), pair, strict=True)
        }
        return learned_bytes("lora", about, tensors)


def read_lora(folder: Path) -> FileOf[LearnedLora]:
    """Return the LoRA in a folder that `counterforge learn` wrote; raises ModelError where there is none."""
    found = read_kind(folder, "lora")
    layers = [name[len(PREFIX) : -len(DOWN)] for name in found.tensors if name.endswith(DOWN)]
    try:
        factors = {
            layer: (found.tensors[f"{PREFIX}{layer}{DOWN}"], found.tensors[f"{PREFIX}{layer}{UP}"]) for layer in layers
        }
        return FileOf(learned=LearnedLora(factors=factors, **found.about), digest=found.digest)
    except (KeyError, TypeError) as error:
        raise damaged(folder, error) from error
