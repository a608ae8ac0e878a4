"""One edit to be drawn, and who draws it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from actors.images.frame import Frame
from engine.sample import Edit, Json, Sample


@dataclass(frozen=True, kw_only=True)
class EditJob:
    """Pair one sample to be edited with its source's frame; `mask` (1, size, size) is 1 where inpainting redraws.

    `seed` starts the noise, and is that of the source: all of its edits start alike.
    """

    sample: Sample
    edit: Edit
    frame: Frame
    seed: int
    mask: torch.Tensor | None = None


class Drawing(Protocol):
    """Draw edits with a diffusion pipeline; `calls` counts what its models were asked for.

    `record` says what of the drawing decides bits besides model and settings, for the provenance.
    """

    calls: Counter[str]
    record: dict[str, Json]

    def edits(self, jobs: Sequence[EditJob]) -> Iterator[tuple[EditJob, torch.Tensor | None]]:
        """Yield each job, in any order, with its picture (3, size, size), on any device, in [0, 1] where finite.

        The picture is None where the job's preview was turned down; its sample has the preview's scores.
        """
        ...

    def reconstructions(self, jobs: Sequence[EditJob]) -> Mapping[str, torch.Tensor]:
        """Return each source of the jobs through the autoencoder, (3, size, size) in [0, 1], by source key."""
        ...
