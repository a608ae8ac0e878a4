"""The signal `classifier`: any image classifier with labels that are refused."""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image

from actors.verifier.signals.network import ImageNetwork
from actors.verifier.signals.signal import Scores, Signal
from engine.errors import ModelError
from engine.runfile.signals import ClassifierSignal
from engine.sample import Json, Sample


class RefusedLabels(Signal):
    """Score the probability that an image has none of the refused labels, of sources too.

    The probabilities of the refused labels are added up, of a classifier with several labels an image the largest is
    taken.
    """

    def __init__(
        self, name: str, settings: ClassifierSignal, device: torch.device, *, batch_size: int, offline: bool
    ) -> None:
        from transformers import AutoModelForImageClassification

        self._name = name
        self._network = ImageNetwork(
            AutoModelForImageClassification, settings.model, device, batch_size=batch_size, offline=offline
        )
        labels = {str(label): int(index) for index, label in self._network.module.config.id2label.items()}
        if unknown := [label for label in settings.refuse if label not in labels]:
            raise ModelError(
                f"signals.{name}.refuse: model {settings.model.name!r} has no label {unknown[0]!r}, it has: "
                f"{', '.join(labels)}"
            )
        self._refused = [labels[label] for label in settings.refuse]
        self._is_multi_label = self._network.module.config.problem_type == "multi_label_classification"
        self.provenance: Mapping[str, Json] = self._network.provenance

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """Return the model's input (3, height, width)."""
        return self._network.pixels(image)

    def see(self, prepared: Sequence[torch.Tensor]) -> list[float]:
        """Return the probability of no refused label of each image."""
        logits = self._network.rows(prepared, lambda pixels: self._network.module(pixel_values=pixels).logits)
        return [self._allowed(row) for row in logits]

    def source_scores(self, source: Sample, seen: float) -> Scores:
        """Return the score of a source."""
        return {self._name: seen}

    def edit_scores(self, edit: Sample, seen: float, source_seen: float, placebo_seen: float | None) -> Scores:
        """Return the score of an edit."""
        return {self._name: seen}

    def _allowed(self, logits: torch.Tensor) -> float:
        if self._is_multi_label or len(logits) == 1:
            return 1 - float(logits.sigmoid()[self._refused].max())
        return 1 - float(logits.softmax(0)[self._refused].sum())
