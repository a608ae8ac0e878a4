"""An editor's vocabulary: learned words added to its tokenizer and text encoder, and put into the texts of edits."""

import re
from dataclasses import replace

import torch
from tokenizers import AddedToken

from actors.editor.strategies.strategy import Strategy
from actors.models.untyped import Pipeline
from engine.errors import ModelError
from engine.sample import Edit


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
