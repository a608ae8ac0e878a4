"""What a word or a LoRA is learned from: edited pictures as latents, with their sources and their texts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from actors.editor.learning.vocabulary import with_word
from actors.editor.slots.autoencoder import Autoencoder
from actors.editor.strategies.latents import SourceLatents
from actors.editor.strategies.strategy import SlotStrategy
from actors.images.codec import decode_rgb
from actors.images.frame import fit, to_tensor
from actors.models.batching import padded_tokens
from actors.models.device import precision
from actors.models.untyped import Pipeline
from engine.errors import ModelError
from engine.runfile.editor import EditorConfig
from engine.sample import Edit, Sample


@dataclass(frozen=True, kw_only=True)
class EditedPair:
    """A source and an accepted edit of it."""

    source: Sample
    edited: Sample
    edit: Edit


@dataclass(frozen=True, kw_only=True)
class LearningPairs:
    """Pairs as the UNet gets them, on the CPU.

    `edited` and `conditions` are latents, (num_pairs, channels, height, width); conditions are None for a UNet that is
    given no source. `tokens` are those of the texts with the word, `own_tokens` of the texts as the run had them, both
    (num_pairs, length).
    """

    edited: torch.Tensor
    conditions: torch.Tensor | None
    tokens: torch.Tensor
    own_tokens: torch.Tensor

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.edited)


def encode_pairs(
    pairs: Sequence[EditedPair],
    pipeline: Pipeline,
    strategy: SlotStrategy,
    config: EditorConfig,
    *,
    word: str,
    size: int,
) -> LearningPairs:
    """Return the pairs whose text names the value, all where `word` is the value; raises ModelError where none does."""
    worded = [
        (pair, edit)
        for pair in pairs
        if (edit := pair.edit if word == pair.edit.after else with_word(pair.edit, word, strategy)) is not None
    ]
    if not worded:
        example = strategy.text(pairs[0].edit).text
        raise ModelError(
            f"none of the {len(pairs)} edits names {pairs[0].edit.after!r} in the text that the editor follows, such "
            f"as {example!r}: there is no place for a learned word; choose another value"
        )
    with torch.inference_mode(), precision(config.model, pipeline.device):
        vae = Autoencoder(
            pipeline, size=size, batch_size=config.decode_batch_size, calls=Counter(), name=config.model.name
        )
        sources, targets = (
            vae.encode(to_tensor([fit(decode_rgb(bytes(each.image)), size) for each in samples]))
            for samples in ([pair.source for pair, _ in worded], [pair.edited for pair, _ in worded])
        )
        conditions = None
        if pipeline.unet.config.in_channels > pipeline.unet.config.out_channels:
            found = [
                strategy.condition(SourceLatents(picture=each), vae.scaled, torch.Generator().manual_seed(0))
                for each in sources
            ]
            conditions = torch.stack([each for each in found if each is not None]).float().cpu()
        edited = torch.stack([vae.scaled(each.mean) for each in targets]).float().cpu()
    length = pipeline.tokenizer.model_max_length
    tokens, own = (
        padded_tokens(pipeline.tokenizer, [strategy.text(edit).text for edit in edits], length).input_ids
        for edits in ([edit for _, edit in worded], [pair.edit for pair, _ in worded])
    )
    return LearningPairs(
        edited=edited.clone(),
        conditions=None if conditions is None else conditions.clone(),
        tokens=tokens,
        own_tokens=own,
    )
