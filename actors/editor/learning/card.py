"""The card of a learned word or LoRA, README.md in its folder: what it was learned from, what it cost, how it is used.

As on the hub its first block is YAML, between two lines of ---, and has everything; people read what follows.
"""

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from engine.errors import ModelError
from engine.runfile.editor import AdapterKind
from engine.wording import duration

FILE = "README.md"
FENCE = "---\n"
# The title, the method, and what the file is, of each kind.
ABOUT: dict[AdapterKind, tuple[str, str, str]] = {
    "token": (
        "A learned word",
        "textual inversion (Gal et al. 2022)",
        "`learned.safetensors` has one tensor, which `load_textual_inversion` of diffusers reads as well.",
    ),
    "lora": (
        "A learned LoRA",
        "low-rank adaptation (Hu et al. 2021)",
        "`learned.safetensors` has two factors for each layer, which `load_lora_weights` of diffusers reads as well. "
        "An edit is drawn with it at a scale of its severity; a placebo is drawn without it.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is said of a learned word, which has `num_vectors`, or of a LoRA, which has a `rank`.

    The losses are the editor's own, on the same noise: as it started (of a LoRA: without it), learned, and of the value
    in the editor's own words. `digest` is that of the file.
    """

    value: str
    run: str
    plan: str
    stage: str
    model: str
    model_digest: str
    classes: tuple[str, ...]
    num_pairs: int
    start: str
    num_vectors: int | None = None
    rank: int | None = None
    num_steps: int
    seed: int
    seconds: float
    loss_start: float
    loss_learned: float
    loss_own: float
    digest: str

    @property
    def kind(self) -> AdapterKind:
        """Return what was learned."""
        return "token" if self.rank is None else "lora"

    def text(self, folder: str) -> str:
        """Return the card as Markdown; `folder` is named as a run file would name it."""
        what = (
            {"vectors": f"{self.num_vectors}, started as {self.start!r}, whose norms they keep"}
            if self.rank is None
            else {"rank": f"{self.rank}, of the projections of attention; texts have {self.start!r} for the value"}
        )
        rows = {
            "value": self.value,
            "run": f"{self.run}, plan {self.plan[:12]}, stage {self.stage}",
            "classes": ", ".join(self.classes),
            "pairs": f"{self.num_pairs}, accepted edits of train sources at severity 1",
            "model": f"{self.model}, digest {self.model_digest}",
            **what,
            "steps": f"{self.num_steps}, seed {self.seed}",
            "set-up cost": f"{duration(self.seconds)} of learning",
            "loss": f"{self.loss_learned:.4f}; as it started {self.loss_start:.4f}, by the editor's own words for "
            f"the value {self.loss_own:.4f}",
            "digest": self.digest,
        }
        buffer = io.StringIO()
        content = {name: value for name, value in asdict(self).items() if value is not None}
        YAML(typ="safe", pure=True).dump({**content, "classes": list(self.classes)}, buffer)
        table = "\n".join(f"| {name} | {text} |" for name, text in rows.items())
        title, method, file = ABOUT[self.kind]
        return (
            f"{FENCE}{buffer.getvalue()}{FENCE}\n# {title}: {self.value}\n\n"
            f"Made by `counterforge learn`: {method} on pairs of a source and its accepted "
            f"edit.\n\n|  |  |\n|---|---|\n{table}\n\n"
            "A run file uses it so, and nothing else of the editor changes:\n\n"
            f"    stages:\n      {self.stage}:\n        adapters: [{self.entry(folder)}]\n\n"
            f"{file}\n"
        )

    def entry(self, folder: str) -> str:
        """Return the entry of `adapters` in a run file."""
        kind = "" if self.kind == "token" else f", kind: {self.kind}"
        return f"{{value: {self.value!r}, path: {folder!r}{kind}, digest: {self.digest!r}}}"


def read_card(folder: Path) -> Card:
    """Return the card in a folder that `counterforge learn` wrote; raises ModelError where there is none."""
    path = folder / FILE
    try:
        _, block, _ = path.read_text(encoding="utf-8").split(FENCE, 2)
        found: dict[str, Any] = YAML(typ="safe", pure=True).load(block)
        return Card(**{**found, "classes": tuple(found["classes"])})
    except (OSError, ValueError, KeyError, TypeError, YAMLError) as error:
        raise ModelError(f"{path} is no card of a learned word or LoRA ({error}): learn it again") from error
