"""An editor's vocabulary: learned words added to its tokenizer and text encoder, and put into the texts of edits."""

import re
from collections.abc import Sequence
from dataclasses import replace

import torch
from tokenizers import AddedToken

from actors.editor.learning.word_file import read_adapter
from actors.editor.strategies.strategy import Strategy
from actors.models.files import ModelFiles
from actors.models.untyped import Pipeline
from engine.errors import ModelError
from engine.runfile.editor import AdapterConfig
from engine.sample import Edit, Json


class Vocabulary:
    """The words that an editor has learned: `edit` puts them in place of the values that they stand for.

    `provenance` has the digests of the words by value, under `adapters`; it is empty where there are none. Raises
    ModelError for a word of another model.
    """

    def __init__(
        self, adapters: Sequence[AdapterConfig], pipeline: Pipeline, strategy: Strategy, files: ModelFiles
    ) -> None:
        self._strategy = strategy
        self._words: dict[str, str] = {}
        digests: dict[str, Json] = {}
        for adapter in adapters:
            found = read_adapter(adapter)
            if found.word.model_digest != files.digest:
                raise ModelError(
                    f"{adapter.path} is a word of the model {found.word.model!r} with the digest "
                    f"{found.word.model_digest}, and the editor is {files.name!r} with {files.digest}: a word is known "
                    "to its own model alone, learn it from a run of this editor"
                )
            self._words[adapter.value] = add_word(pipeline, adapter.value, torch.from_numpy(found.word.vectors))
            digests[adapter.value] = found.digest
        self.provenance: dict[str, Json] = {"adapters": digests} if digests else {}

    def edit(self, edit: Edit) -> Edit | None:
        """Return an edit with the learned word of its value in its texts, unchanged where there is none.

        None where the text that the editor follows does not name the value.
        """
        word = self._words.get(edit.after)
        return edit if word is None else with_word(edit, word, self._strategy)


def with_word(edit: Edit, word: str, strategy: Strategy) -> Edit | None:
    """Return an edit with `word` in place of its value; None where the text that is followed does not name that."""
    value = re.compile(rf"(?<!\w){re.escape(edit.after)}(?!\w)", re.IGNORECASE)
    instruction, caption = (value.sub(lambda _: word, text) for text in (edit.instruction, edit.caption))
    worded = replace(edit, instruction=instruction, caption=caption)
    return None if strategy.text(worded).text == strategy.text(edit).text else worded


def why_no_words(pipeline: Pipeline) -> str | None:
    """Return why a pipeline can learn no words, None if it can: it takes one text encoder of CLIP, and that alone."""
    from transformers import CLIPTextModel

    name = type(pipeline).__name__
    if getattr(pipeline, "text_encoder_2", None) is not None:
        return f"a {name} has more than one text encoder"
    if not isinstance(encoder := getattr(pipeline, "text_encoder", None), CLIPTextModel):
        return f"the text encoder of a {name} is a {type(encoder).__name__}, not CLIP's"
    return None


def add_word(pipeline: Pipeline, value: str, vectors: torch.Tensor) -> str:
    """Add a word of vectors (num_vectors, width) to tokenizer and text encoder; return it as it stands in a text.

    All other texts have the embeddings that they had. Raises ModelError where the model can learn no words, or where
    the vectors have another width.
    """
    if reason := why_no_words(pipeline):
        raise ModelError(f"{reason}, and a learned word goes into one of CLIP: use Stable Diffusion 1 or 2")
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
    width = int(encoder.get_input_embeddings().weight.shape[1])
    if vectors.shape[1] != width:
        raise ModelError(f"the learned word {value!r} has vectors of {vectors.shape[1]} numbers, the editor of {width}")
    names = _names(value, len(vectors))
    # Not normalised: a tokenizer that lowers case would not find it in a text.
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
    ids = word_tokens(pipeline, value, len(vectors))
    # Without the mean of all rows, which is drawn for new ones otherwise.
    encoder.resize_token_embeddings(max(len(tokenizer), *(each + 1 for each in ids)), mean_resizing=False)
    weight = encoder.get_input_embeddings().weight
    with torch.no_grad():
        weight[ids] = vectors.to(weight)
    return "".join(names)


def word_tokens(pipeline: Pipeline, value: str, num_vectors: int) -> list[int]:
    """Return the tokens of a word that was added."""
    return list(pipeline.tokenizer.convert_tokens_to_ids(_names(value, num_vectors)))


def _names(value: str, num_vectors: int) -> list[str]:
    return [f"<{value}/{index}>" for index in range(num_vectors)]
