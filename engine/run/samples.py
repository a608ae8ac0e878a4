"""Every sample of a shard that is done, rejected ones too."""

from engine.run.directory import RunDirectory
from engine.sample import Sample
from engine.shards.rows import sample_of
from engine.verdicts.rule import EARLY, is_early


def read_samples(source: RunDirectory, index: int) -> list[Sample]:
    """Return every sample of a shard, those whose pixels were not kept, or never were, without image."""
    accepted = source.read_shard(index)
    if source.info.keep_rejected == "none":
        return [*accepted, *_turned_down(source, index)]
    samples = [*accepted, *source.read_rejected(index)]
    if EARLY in source.marker(index).counts.rejected:
        samples += [sample for sample in _turned_down(source, index) if is_early(sample.verdict)]
    return samples


def _turned_down(source: RunDirectory, index: int) -> list[Sample]:
    return [sample_of(row) for row in source.read_rows(index).to_pylist() if not row["accepted"]]
