"""From texts to the conditioning of a UNet: each distinct text goes through the text encoders once."""

from collections import Counter
from collections.abc import Iterable

import torch

from actors.editor.slots.unet import Prompt
from actors.models.batching import padded_batches, padded_tokens
from actors.models.untyped import Pipeline


class PromptCache:
    """Embed texts with the one or two CLIP text encoders of a pipeline, as its `encode_prompt` does.

    `calls` counts the texts that went through the encoders. Embeddings are kept until `clear`.
    """

    def __init__(self, pipeline: Pipeline, *, size: int, batch_size: int, calls: Counter[str]) -> None:
        self._pipeline, self._batch_size = pipeline, batch_size
        self._is_xl = getattr(pipeline, "text_encoder_2", None) is not None
        # Original size, crop and target size of the picture (Podell et al. 2023, section 2.2).
        self._time_ids = (size, size, 0, 0, size, size)
        self._known: dict[str | None, Prompt] = {}
        self.calls = calls

    def add(self, texts: Iterable[str | None]) -> None:
        """Embed the texts that are not here yet. None is no text: zeros if the pipeline uses zeros for it."""
        names = {self._name(text) for text in texts} - self._known.keys()
        for batch, count in padded_batches(sorted(name for name in names if name is not None), self._batch_size):
            self._known.update(zip(batch[:count], self._embed(batch)[:count], strict=True))
            self.calls["prompts"] += count
        if None in names:
            self._known[None] = self._zeros()

    def __getitem__(self, text: str | None) -> Prompt:
        """Return the conditioning of a text that was added."""
        return self._known[self._name(text)]

    def between(self, start: str, end: str, share: float) -> Prompt:
        """Return the embedding a share of the way from one text's to another's."""
        return Prompt(embedding=torch.lerp(self[start].embedding, self[end].embedding, share))

    def example(self) -> Prompt:
        """Return the conditioning of the empty text."""
        return self._embed([""] * self._batch_size)[0]

    def clear(self) -> None:
        """Drop all embeddings."""
        self._known.clear()

    def _name(self, text: str | None) -> str | None:
        has_zeros = self._is_xl and self._pipeline.config.force_zeros_for_empty_prompt
        return "" if text is None and not has_zeros else text

    def _zeros(self) -> Prompt:
        like = self.example()
        assert like.pooled is not None
        return Prompt(
            embedding=torch.zeros_like(like.embedding), pooled=torch.zeros_like(like.pooled), time_ids=like.time_ids
        )

    def _embed(self, texts: list[str]) -> list[Prompt]:
        device = self._pipeline.device
        if not self._is_xl:
            tokenizer, encoder = self._pipeline.tokenizer, self._pipeline.text_encoder
            tokens = padded_tokens(tokenizer, texts, tokenizer.model_max_length).to(device)
            mask = tokens.attention_mask if getattr(encoder.config, "use_attention_mask", False) else None
            return [Prompt(embedding=embedding) for embedding in encoder(tokens.input_ids, attention_mask=mask)[0]]
        embeddings, _, pooled, _ = self._pipeline.encode_prompt(
            prompt=texts, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        times = torch.tensor(self._time_ids, dtype=embeddings.dtype, device=device)
        return [Prompt(embedding=one, pooled=two, time_ids=times) for one, two in zip(embeddings, pooled, strict=True)]
