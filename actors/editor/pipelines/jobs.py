"""One edit to draw, and the interface of what draws it."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch

from actors.images.frame import Frame, to_tensor
from actors.models.device import upload
from actors.models.low_rank import ScaledAdapter
from engine.sample import Edit, Json, Sample


@dataclass(frozen=True, kw_only=True)
class EditJob:
    """One sample to edit and the frame of the picture that it is drawn on, with the `caption` of that picture.

    `edit` is this turn's change alone. `mask` (1, size, size) is 1 where inpainting redraws. `seed` of the noise is the
    same for all edits of a source in one turn. `adapter` is the LoRA of the edit.
    """

    sample: Sample
    edit: Edit
    frame: Frame
    caption: str
    seed: int
    mask: torch.Tensor | None = None
    adapter: ScaledAdapter | None = None

    @cached_property
    def scene(self) -> str:
        """Return the key of the picture that it is drawn on, with a digest of the mask where there is one.

        Edits of one picture that redraw different regions, as what each of them names, have different scenes.
        """
        if self.mask is None:
            return self.sample.drawn_on
        bits = np.packbits(self.mask.cpu().numpy() > 0).tobytes()
        return f"{self.sample.drawn_on}/{hashlib.blake2b(bits, digest_size=8).hexdigest()}"

    def masked(self, square: torch.Tensor) -> torch.Tensor:
        """Return a picture (3, size, size) of this edit with the frame where the mask is 0."""
        if self.mask is None:
            return square
        source = to_tensor([self.frame], square.device)[0]
        return torch.where(upload(self.mask, square.device) > 0, square, source)


class Drawing(Protocol):
    """Draw edits with a diffusion pipeline; `calls` counts the calls of its models.

    `record` goes into the provenance: whatever decides bits besides model and settings.
    """

    calls: Counter[str]
    record: dict[str, Json]

    def edits(self, jobs: Sequence[EditJob]) -> Iterator[tuple[EditJob, torch.Tensor | None]]:
        """Yield each job, in any order, with its picture (3, size, size), on any device, in [0, 1] where finite.

        The picture is None if the job's preview was rejected; its sample has the preview's scores.
        """
        ...

    def reconstructions(self, jobs: Sequence[EditJob]) -> Mapping[str, torch.Tensor]:
        """Return each picture that the jobs edit through the autoencoder, (3, size, size) in [0, 1], by its key."""
        ...
