"""The signal `description`: does a model that sees describe the edit by its class?"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image

from actors.captioner.captioner import make_describer
from actors.images.codec import encode_png
from actors.language.answers import BadReply
from actors.verifier.signals.signal import Scores, Signal
from engine.names import class_words, names_class
from engine.runfile.captioner import CaptionerConfig
from engine.runfile.fields import Placement
from engine.runfile.signals import DescriptionSignal
from engine.sample import Sample

Seen = str | BadReply


class Description(Signal):
    """Score 1 where a caption of the picture names the class of its source by one of its words, 0 where it does not.

    The words are those of the perturber's `class_words`, else the class's name. An answer that is none is undefined.
    What the model says goes into the verdict's notes.
    """

    def __init__(
        self,
        name: str,
        settings: DescriptionSignal,
        device: torch.device,
        *,
        placement: Placement,
        batch_size: int,
        offline: bool,
        words: Mapping[str, Sequence[str]],
    ) -> None:
        self._name, self._words = name, words
        config = CaptionerConfig(
            model=settings.model,
            server=settings.server,
            prompt=settings.prompt,
            max_new_tokens=settings.max_new_tokens,
            batch_size=batch_size,
            placement=placement,
        )
        self._model = make_describer(config, device, offline=offline)
        self.provenance = self._model.provenance

    def prepare(self, image: Image.Image) -> bytes:
        """Return the picture as PNG, which a server takes as it is."""
        return encode_png(np.asarray(image))

    def see(self, prepared: Sequence[bytes]) -> list[Seen]:
        """Return what the model says of each picture."""
        answers = dict(self._model.answers(list(dict.fromkeys(prepared))))
        return [answers[picture] for picture in prepared]

    def edit_scores(self, edit: Sample, seen: Seen, source_seen: Seen, placebo_seen: Seen | None) -> Scores:
        """Return whether the class is named."""
        if isinstance(seen, BadReply) or not seen.split():
            return {self._name: math.nan}
        return {self._name: float(names_class(seen, class_words(edit.class_name, self._words)))}

    def note(self, seen: Seen) -> tuple[str, str]:
        """Return what the model says, or why it says nothing."""
        return self._name, " ".join(seen.split()) if isinstance(seen, str) else seen.detail
