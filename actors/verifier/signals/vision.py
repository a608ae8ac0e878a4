"""The signal `vision`: is the edit still its source, to an encoder that was never taught by captions?"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from actors.verifier.signals.network import ImageNetwork
from actors.verifier.signals.signal import Scores, Signal
from engine.errors import ModelError
from engine.runfile.signals import VisionSignal
from engine.sample import Json, Sample


class Vision(Signal):
    """Score the cosine between the features of an edit and of its placebo, such as those of DINOv2 (Oquab et al. 2023).

    The placebo shows what the editor changes by itself, so that its style is no difference. Features are the model's
    pooled output, or its first token where it pools nothing.
    """

    def __init__(
        self, name: str, settings: VisionSignal, device: torch.device, *, batch_size: int, offline: bool
    ) -> None:
        from transformers import AutoModel

        self._name, self._beside_placebo = name, settings.beside == "placebo"
        self._network = ImageNetwork(AutoModel, settings.model, device, batch_size=batch_size, offline=offline)
        if hasattr(self._network.module, "get_text_features"):
            raise ModelError(
                f"signals.{name}: model {settings.model.name!r} embeds texts too: a signal of kind clip asks it about "
                "both; name an encoder of images alone"
            )
        self.provenance: Mapping[str, Json] = self._network.provenance

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """Return the model's input (3, height, width)."""
        return self._network.pixels(image)

    def see(self, prepared: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the features of each image, of length 1, (dim,)."""
        return [torch.nn.functional.normalize(row, dim=0) for row in self._network.rows(prepared, self._features)]

    def edit_scores(
        self, edit: Sample, seen: torch.Tensor, source_seen: torch.Tensor, placebo_seen: torch.Tensor | None
    ) -> Scores:
        """Return the cosine of an edit's features with those of its placebo; a placebo's with its source's."""
        other = source_seen if placebo_seen is None or not self._beside_placebo else placebo_seen
        return {self._name: float((seen * other).sum())}

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        output: Any = self._network.module(pixel_values=pixels)
        pooled = getattr(output, "pooler_output", None)
        return torch.as_tensor(output.last_hidden_state[:, 0] if pooled is None else pooled)
