"""What an editor has learned, as its run file names it: words in the texts of edits, LoRAs in the rows of its UNet."""

from collections.abc import Sequence
from pathlib import Path

import torch

from actors.editor.learning.learned_file import FileOf
from actors.editor.learning.lora_file import LearnedLora, read_lora
from actors.editor.learning.vocabulary import add_word, with_word
from actors.editor.learning.word_file import LearnedWord, read_word
from actors.editor.pipelines.loading import denoiser
from actors.editor.strategies.strategy import Strategy
from actors.models.files import ModelFiles
from actors.models.low_rank import Factors, LowRankAdapters, ScaledAdapter
from actors.models.untyped import Pipeline
from engine.errors import ModelError
from engine.runfile.editor import AdapterConfig
from engine.sample import Edit, Json


class LearnedAdapters:
    """The words and LoRAs of an editor: `edit` gives the texts of an edit, `scaled` its LoRA.

    `provenance` has their digests by value, under `adapters`; it is empty where there are none. Raises ModelError for
    what another model has learned.
    """

    def __init__(
        self, adapters: Sequence[AdapterConfig], pipeline: Pipeline, strategy: Strategy, files: ModelFiles
    ) -> None:
        self._strategy = strategy
        self._words: dict[str, str] = {}
        self._loras: dict[str, AdapterConfig] = {}
        self.low_rank = LowRankAdapters(denoiser(pipeline))
        digests: dict[str, Json] = {}
        for adapter in adapters:
            found = read_adapter(adapter)
            learned = found.learned
            _check_model(learned, adapter, files)
            if isinstance(learned, LearnedWord):
                self._words[adapter.value] = add_word(pipeline, adapter.value, torch.from_numpy(learned.vectors))
            else:
                self.low_rank.put(adapter.value, _factors(learned, pipeline, adapter.path))
                self._loras[adapter.value] = adapter
                if learned.word != adapter.value:
                    self._words[adapter.value] = learned.word
            digests[adapter.value] = found.digest
        self.provenance: dict[str, Json] = {"adapters": digests} if digests else {}

    def edit(self, edit: Edit) -> Edit | None:
        """Return an edit with the learned word of its value in its texts, unchanged where there is none.

        None where the text that the editor follows does not name the value.
        """
        word = self._words.get(edit.after)
        return edit if word is None else with_word(edit, word, self._strategy)

    def scaled(self, edit: Edit) -> ScaledAdapter | None:
        """Return the LoRA of an edit's value, as strong as the edit is severe; None where there is none."""
        lora = self._loras.get(edit.after)
        # A placebo changes nothing.
        if lora is None or edit.before == edit.after:
            return None
        return ScaledAdapter(name=lora.value, scale=lora.scale * edit.severity, steps=lora.steps)


def read_adapter(adapter: AdapterConfig) -> FileOf[LearnedWord] | FileOf[LearnedLora]:
    """Return the word or LoRA that an editor's configuration names; raises ModelError where it is another one."""
    found = read_lora(Path(adapter.path)) if adapter.kind == "lora" else read_word(Path(adapter.path))
    if (value := found.learned.value) != adapter.value:
        raise ModelError(
            f"{adapter.path} is a {_what(found.learned)} for {value!r}, not for {adapter.value!r}: correct value"
        )
    if adapter.digest is not None and found.digest != adapter.digest:
        raise ModelError(
            f"{adapter.path} has the digest {found.digest}, the run file asks for {adapter.digest}: restore that file, "
            "or change digest and give the run another --out"
        )
    return found


def _what(learned: LearnedWord | LearnedLora) -> str:
    return "word" if isinstance(learned, LearnedWord) else "LoRA"


def _check_model(learned: LearnedWord | LearnedLora, adapter: AdapterConfig, files: ModelFiles) -> None:
    what = _what(learned)
    if learned.model_digest != files.digest:
        raise ModelError(
            f"{adapter.path} is a {what} of the model {learned.model!r} with the digest {learned.model_digest}, and "
            f"the editor is {files.name!r} with {files.digest}: a {what} is known to its own model alone, learn it "
            "from a run of this editor"
        )


def _factors(lora: LearnedLora, pipeline: Pipeline, path: str) -> Factors:
    """Return the factors of a LoRA where the UNet is, in its precision; raises ModelError where they do not fit."""
    layers = dict(denoiser(pipeline).named_modules())
    found = {}
    for name, (down, up) in lora.factors.items():
        weight = getattr(layers.get(name), "weight", None)
        shape = (up.shape[0], down.shape[1])
        if weight is None or tuple(weight.shape) != shape or down.shape[0] != up.shape[1]:
            has = "no such layer" if weight is None else f"a matrix of {'x'.join(map(str, weight.shape))}"
            raise ModelError(
                f"{path}: its factors of {name} are for a matrix of {'x'.join(map(str, shape))}, the editor's UNet has "
                f"{has}: learn it from a run of this editor"
            )
        down_factor, up_factor = (torch.from_numpy(each).to(weight.device, weight.dtype) for each in (down, up))
        found[name] = down_factor, up_factor
    return found
