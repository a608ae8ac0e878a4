"""One shard between two stages, and how it travels: its pictures untouched, beside what is known of them."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter

from engine.sample import Rejection, Sample

KNOWN = [each.name for each in fields(Sample) if each.name != "image"]


@dataclass(frozen=True, kw_only=True)
class ShardRow:
    """Hold one shard between two stages: its planned source keys, samples and rejections, seconds and calls by stage.

    `calls` counts what the models of a stage were asked for, such as `editor.encoded`.

    Through Ray its images go as they are, each a buffer of its own, and arrive as views into the memory that Ray
    shares, which stays while a view is there.
    """

    shard: int
    planned: Sequence[str]
    samples: Sequence[Sample]
    rejections: Sequence[Rejection] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    def __reduce_ex__(self, protocol: object) -> tuple[Callable[..., "ShardRow"], tuple[object, ...]]:
        """Reduce the shard to images and the rest, which is pickled by columns: one by one samples take twice as long.

        Only protocol 5, which is Ray's, has buffers.
        """
        columns = [*zip(*map(attrgetter(*KNOWN), self.samples), strict=True)]
        known = pickle.dumps((vars(self) | {"samples": ()}, columns), pickle.HIGHEST_PROTOCOL)
        return _restored, (known, [pickle.PickleBuffer(sample.image) for sample in self.samples])

    def __sizeof__(self) -> int:
        """Return the bytes of the images, nearly all there is: Ray Data plans with it."""
        return sum(len(sample.image) for sample in self.samples)


def _restored(known: bytes, images: Sequence[object]) -> ShardRow:
    row, columns = pickle.loads(known)  # nosec B301 # by a worker of this run
    samples = []
    for image, values in zip(images, zip(*columns, strict=True), strict=True):
        sample = object.__new__(Sample)
        vars(sample).update(zip(KNOWN, values, strict=True), image=memoryview(image))  # type: ignore[arg-type]
        samples.append(sample)
    return ShardRow(**row | {"samples": samples})
