"""The pictures of a shard that are edited, read ahead."""

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from PIL import Image

from actors.images.codec import UnreadableImageError, decode_rgb
from actors.models.batching import prepared_batches
from actors.models.device import num_readers
from engine.runfile.fields import StageConfig
from engine.sample import Sample

Picture = TypeVar("Picture")


def read_pictures(
    batch: Sequence[Sample], keys: Collection[str], prepare: Callable[[Image.Image], Picture], config: StageConfig
) -> dict[str, Picture | str]:
    """Return what `prepare` makes of each picture of a batch whose key is among `keys`, by its key.

    In place of one that cannot be read stands the reason. Several threads call `prepare` at once.
    """

    def read(sample: Sample) -> tuple[str, Picture | str]:
        try:
            return sample.key, prepare(decode_rgb(sample.image))
        except UnreadableImageError as error:
            return sample.key, str(error)

    wanted = [sample for sample in batch if sample.key in keys]
    pictures: dict[str, Picture | str] = {}
    for part in prepared_batches(wanted, config.batch_size, read, num_readers(config.placement)):
        pictures.update(part)
    return pictures
