"""From an editor and pairs to a learned word or LoRA: the model is loaded, trained and compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from actors.editor.learning.inversion import Inversion, InversionSettings
from actors.editor.learning.lora import LoraSettings, LoraTraining
from actors.editor.learning.lora_file import LearnedLora
from actors.editor.learning.pairs import EditedPair, LearningPairs, encode_pairs
from actors.editor.learning.training import Training
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
    """The editor's own loss on the same noise: before the first step, learned, and with the value in its own words."""

    start: float
    learned: float
    own: float


class Learning(Protocol):
    """The learning of a word or a LoRA from `num_pairs` pairs, step by step by `training`."""

    @property
    def training(self) -> Training:
        """Return what makes the steps."""
        ...

    @property
    def num_pairs(self) -> int:
        """Return the number of pairs whose text names the value."""
        ...

    def learned(self, digest: str) -> LearnedWord | LearnedLora:
        """Return the word or the LoRA as it is now; `digest` is of its settings."""
        ...

    def losses(self) -> Losses:
        """Return the losses that tell how far it has come."""
        ...


class Learner:
    """Learn for one editor; raises ModelError where its model can learn nothing. Once for each Learner."""

    def __init__(self, config: EditorConfig, device: torch.device, *, offline: bool) -> None:
        # Gradients of float16 underflow.
        dtype = "float32" if config.model.dtype == "float16" else config.model.dtype
        model = config.model.model_copy(update={"dtype": dtype})
        # Without what it has learned already: it is the model itself that learns.
        self._config = config.model_copy(update={"model": model, "adapters": ()})
        self.files = resolve_model(model, offline)
        self._pipeline, strategy = load_pipeline(self._config, self.files, device)
        reason = why_no_slots(self._pipeline) or why_no_words(self._pipeline)
        channels = self._pipeline.unet.config if reason is None else None
        if channels is not None and config.method != "instruct" and channels.in_channels != channels.out_channels:
            reason = "its UNet wants a mask beside the picture"
        if reason is not None or not isinstance(strategy, SlotStrategy):
            raise ModelError(
                f"the editor {config.model.name!r} can learn no word and no LoRA: {reason}; both are for "
                "InstructPix2Pix and for img2img with Stable Diffusion 1 or 2"
            )
        self._strategy = strategy

    def begin(self, pairs: Sequence[EditedPair], value: str, settings: InversionSettings | LoraSettings) -> Learning:
        """Return the learning of a word or a LoRA for a value."""
        if isinstance(settings, LoraSettings):
            encoded = self._encoded(pairs, settings.start)
            lora = LoraTraining(self._pipeline, self._config.model, encoded, settings)
            return LoraLearning(lora=lora, value=value, word=settings.start, num_pairs=len(encoded), learner=self)
        start = self._pipeline.tokenizer(settings.start, add_special_tokens=False).input_ids
        if not start:
            raise ModelError(f"--start {settings.start!r} has no tokens: name a word")
        rows = torch.tensor(start).repeat(-(-settings.num_vectors // len(start)))[: settings.num_vectors]
        vectors = self._pipeline.text_encoder.get_input_embeddings().weight[rows].detach().float()
        encoded = self._encoded(pairs, add_word(self._pipeline, value, vectors))
        ids = word_tokens(self._pipeline, value, settings.num_vectors)
        inversion = Inversion(self._pipeline, self._config.model, encoded, settings, ids=ids, start=vectors)
        return WordLearning(inversion=inversion, value=value, start=vectors, num_pairs=len(encoded), learner=self)

    def _encoded(self, pairs: Sequence[EditedPair], word: str) -> LearningPairs:
        size = self._config.size or native_size(self._pipeline)
        return encode_pairs(pairs, self._pipeline, self._strategy, self._config, word=word, size=size)

    @property
    def model(self) -> tuple[str, str]:
        """Return the name and the digest of the model."""
        return str(self.files.provenance["name"]), self.files.digest


@dataclass(frozen=True, kw_only=True)
class WordLearning:
    """The learning of one word, from `start`, the vectors that it starts as."""

    inversion: Inversion
    value: str
    start: torch.Tensor
    num_pairs: int
    learner: Learner

    @property
    def training(self) -> Training:
        """Return what makes the steps."""
        return self.inversion.training

    def learned(self, digest: str) -> LearnedWord:
        """Return the word as it is now."""
        name, model_digest = self.learner.model
        vectors = self.inversion.vectors.cpu().numpy()
        return LearnedWord(value=self.value, vectors=vectors, model=name, model_digest=model_digest, settings=digest)

    def losses(self) -> Losses:
        """Return the losses of the word that it starts as, of the learned one, and of the value itself."""
        start, learned, own = (self.inversion.loss_of(each) for each in (self.start, self.inversion.vectors, None))
        return Losses(start=start, learned=learned, own=own)


@dataclass(frozen=True, kw_only=True)
class LoraLearning:
    """The learning of one LoRA, with `word` in place of the value in the texts."""

    lora: LoraTraining
    value: str
    word: str
    num_pairs: int
    learner: Learner

    @property
    def training(self) -> Training:
        """Return what makes the steps."""
        return self.lora.training

    def learned(self, digest: str) -> LearnedLora:
        """Return the LoRA as it is now."""
        name, model_digest = self.learner.model
        factors = {layer: (a.cpu().numpy(), b.cpu().numpy()) for layer, (a, b) in self.lora.factors.items()}
        return LearnedLora(
            value=self.value,
            word=self.word,
            factors=factors,
            model=name,
            model_digest=model_digest,
            settings=digest,
        )

    def losses(self) -> Losses:
        """Return the losses without the LoRA, with it, and without it of the value itself."""
        lora = self.lora
        return Losses(
            start=lora.loss_of(None), learned=lora.loss_of(lora.factors), own=lora.loss_of(None, own_text=True)
        )
