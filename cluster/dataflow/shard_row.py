"""One shard between two stages, and its pickling: images as buffers, everything else by columns."""

import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import TypeVar

from engine.sample import Edit, Rejection, Sample, Verdict

COLUMNS = [each.name for each in fields(Sample) if each.name != "image"]
NESTED = [(name, kind, [each.name for each in fields(kind)]) for name, kind in (("edit", Edit), ("verdict", Verdict))]
Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class ShardRow:
    """One shard between two stages: its planned source keys, samples and rejections, seconds and calls by stage.

    `calls` counts what the models of a stage were asked for, such as `editor.encoded`; `machines` are the kinds of
    machines that its stages ran on.

    Ray transfers its images without a copy, each as a buffer: they arrive as views into shared memory, which Ray keeps
    while a view exists.
    """

    shard: int
    planned: Sequence[str]
    samples: Sequence[Sample]
    rejections: Sequence[Rejection] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    machines: frozenset[str] = frozenset()

    def __reduce_ex__(self, protocol: object) -> tuple[Callable[..., "ShardRow"], tuple[object, ...]]:
        """Pickle images as buffers and the rest by columns, which takes half the time of pickling objects.

        Needs protocol 5, which Ray uses.
        """
        columns = dict(zip(COLUMNS, zip(*map(attrgetter(*COLUMNS), self.samples), strict=True), strict=False))
        for name, _, names in NESTED:
            values_of = attrgetter(*names)
            columns[name] = tuple(record and values_of(record) for record in columns.get(name, ()))
        metadata = pickle.dumps((vars(self) | {"samples": ()}, columns), pickle.HIGHEST_PROTOCOL)
        return _restored, (metadata, [pickle.PickleBuffer(sample.image) for sample in self.samples])

    def __sizeof__(self) -> int:
        """Return the bytes of the images, nearly all of its memory; Ray Data schedules by it."""
        return sum(len(sample.image) for sample in self.samples)


def _restored(metadata: bytes, images: Sequence[object]) -> ShardRow:
    row, columns = pickle.loads(metadata)  # nosec B301 # by a worker of this run
    for name, kind, names in NESTED:
        columns[name] = _records(kind, names, columns[name])
    columns["image"] = [memoryview(image) for image in images]  # type: ignore[arg-type]
    return ShardRow(**row | {"samples": _records(Sample, [*columns], zip(*columns.values(), strict=True))})


def _records(kind: type[Record], names: Sequence[str], rows: Iterable[Sequence[object] | None]) -> list[Record | None]:
    """Return records, None for None. Bypasses the constructors, which set each frozen field one by one."""
    records: list[Record | None] = []
    for values in rows:
        record = None
        if values is not None:
            record = object.__new__(kind)
            record.__dict__.update(zip(names, values, strict=True))
        records.append(record)
    return records
