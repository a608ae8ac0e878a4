"""From an editor and pairs to a learned word: the model is loaded, the word added, learned and compared."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from actors.editor.learning.inversion import Inversion, InversionSettings, Progress
from actors.editor.learning.pairs import EditedPair, encode_pairs
from actors.editor.learning.vocabulary import add_word, why_no_words, word_tokens
from actors.editor.learning.word_file import LearnedWord
from actors.editor.pipelines.loading import load_pipeline, native_size
from actors.editor.slots.drawing import why_no_slots
from actors.editor.strategies.strategy import SlotStrategy
from actors.models.files import resolve_model
from engine.errors import ModelError
from engine.runfile.editor import EditorConfig


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The editor's own loss on the same noise: with the word to start from, the learned one, and the value's own."""

    start: float
    learned: float
    own: float


class WordLearner:
    """Learn words for one editor; raises ModelError where its model can learn none."""

    def __init__(self, config: EditorConfig, device: torch.device, *, offline: bool) -> None:
        # Gradients of float16 underflow.
        dtype = "float32" if config.model.dtype == "float16" else config.model.dtype
        model = config.model.model_copy(update={"dtype": dtype})
        # Without the words that it has already: it is the model itself that learns.
        self._config = config.model_copy(update={"model": model, "adapters": ()})
        self.files = resolve_model(model, offline)
        self._pipeline, strategy = load_pipeline(self._config, self.files, device)
        reason = why_no_slots(self._pipeline) or why_no_words(self._pipeline)
        channels = self._pipeline.unet.config if reason is None else None
        if channels is not None and config.method != "instruct" and channels.in_channels != channels.out_channels:
            reason = "its UNet wants a mask beside the picture"
        if reason is not None or not isinstance(strategy, SlotStrategy):
            raise ModelError(
                f"the editor {config.model.name!r} can learn no word: {reason}; words are for InstructPix2Pix and for "
                "img2img with Stable Diffusion 1 or 2"
            )
        self._strategy = strategy

    def begin(self, pairs: Sequence[EditedPair], value: str, settings: InversionSettings) -> "WordLearning":
        """Return the learning of a word for a value. Once for each WordLearner: the word stays in its vocabulary."""
        start = self._pipeline.tokenizer(settings.start, add_special_tokens=False).input_ids
        if not start:
            raise ModelError(f"--start {settings.start!r} has no tokens: name a word")
        rows = torch.tensor(start).repeat(-(-settings.num_vectors // len(start)))[: settings.num_vectors]
        vectors = self._pipeline.text_encoder.get_input_embeddings().weight[rows].detach().float()
        word = add_word(self._pipeline, value, vectors)
        size = self._config.size or native_size(self._pipeline)
        encoded = encode_pairs(pairs, self._pipeline, self._strategy, self._config, word=word, size=size)
        ids = word_tokens(self._pipeline, value, settings.num_vectors)
        inversion = Inversion(self._pipeline, self._config.model, encoded, settings, ids=ids, start=vectors)
        return WordLearning(inversion=inversion, value=value, start=vectors, learner=self)


@dataclass(frozen=True, kw_only=True)
class WordLearning:
    """The learning of one word, from `start`, the vectors that it starts as."""

    inversion: Inversion
    value: str
    start: torch.Tensor
    learner: WordLearner

    @property
    def num_pairs(self) -> int:
        """Return the number of pairs whose text names the value."""
        return len(self.inversion.pairs)

    def steps(self, checkpoint: Path, digest: str, every: int) -> Iterator[Progress]:
        """Make the steps that are left, from the checkpoint where there is one of this digest."""
        return self.inversion.learn(checkpoint, digest, every)

    def word(self, digest: str) -> LearnedWord:
        """Return the word as it is now."""
        files = self.learner.files
        vectors = self.inversion.vectors.cpu().numpy()
        return LearnedWord(
            value=self.value,
            vectors=vectors,
            model=str(files.provenance["name"]),
            model_digest=files.digest,
            settings=digest,
        )

    def losses(self) -> Losses:
        """Return the losses that tell how far the word has come."""
        inversion = self.inversion
        start, learned = (inversion.loss_of(vectors) for vectors in (self.start, inversion.vectors))
        return Losses(start=start, learned=learned, own=inversion.loss_of(None))
