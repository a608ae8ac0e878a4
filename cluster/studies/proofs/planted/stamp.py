"""A stage that stamps the same artefact on generated images: a watermark in a corner, as some generators print."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from actors.images.codec import decode_rgb, encode_jpeg
from engine.sample import Json, Rejection, Sample

# The edge of the watermark in pixels, and its strength of 255.
EDGE, STRENGTH = 10, 60
JPEG_QUALITY = 95


class Stamp:
    """Stamp placebos and edits; sources stay. A stage of kind plugin."""

    def __init__(self, options: Mapping[str, Json], device: object, *, name: str, seed: int) -> None:
        pass

    def __call__(self, batch: Sequence[Sample]) -> Iterator[Sample | Rejection]:
        """Yield the samples."""
        for sample in batch:
            if sample.role == "source":
                yield sample
            else:
                pixels = np.asarray(decode_rgb(sample.image))[None]
                yield replace(sample, image=encode_jpeg(stamped(pixels)[0], JPEG_QUALITY))


def stamped(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pictures, (n, height, width, 3) uint8, with the watermark."""
    rows, columns = np.indices((EDGE, EDGE))
    marked = pictures.astype(np.int16)
    marked[:, -EDGE:, -EDGE:] += (STRENGTH * (1 - 2 * ((rows // 2 + columns // 2) % 2)))[..., None]
    return np.clip(marked, 0, 255).astype(np.uint8)
