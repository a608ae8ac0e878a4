"""Retry: what was quarantined in finished shards is made again, and merged in where it belongs.

The groups of the sources concerned are made anew as a whole. Seeds come from content, so what was well in them comes
out as it was, and a shard whose trouble has gone has the bytes that it would have had without it.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from engine.errors import SelectionError, ShardError
from engine.run.commit import Outcome, check_whole, commit_outcome, partition
from engine.run.directory import RETRIES, RunDirectory, marker_path
from engine.run.samples import read_samples
from engine.sample import Json, Rejection, Sample
from engine.shards.marker import Marker, made_on, versions

PREDICTIONS = "probe"


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Hold what is to be made again: the sources by shard, and the quarantined samples by reason."""

    sources: Mapping[int, frozenset[str]]
    reasons: Mapping[str, int]

    @classmethod
    def of(cls, rundir: RunDirectory, reasons: Collection[str] = ()) -> "Retry":
        """Find the samples that were quarantined, all or those of some reasons.

        Raises SelectionError for a reason that none was quarantined for.
        """
        known: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        sources: dict[int, frozenset[str]] = {}
        for index in rundir.done():
            known.update(rundir.marker(index).counts.quarantined)
            if not rundir.marker(index).counts.quarantined:
                continue
            found = [each for each in rundir.read_quarantine(index) if not reasons or each.reason in reasons]
            counts.update(each.reason for each in found)
            if found:
                sources[index] = frozenset(each.source_key for each in found)
        if unknown := sorted(set(reasons) - set(known)):
            there = ", ".join(f"{reason} ({count})" for reason, count in known.most_common()) or "none at all"
            raise SelectionError(f"--reason {unknown[0]}: nothing was quarantined for that; the reasons are {there}")
        return cls(sources=sources, reasons=dict(counts.most_common()))


def commit_retried(
    rundir: RunDirectory,
    index: int,
    keys: Collection[str],
    results: Sequence[Sample | Rejection],
    seconds: Mapping[str, float],
    machines: Iterable[str] = (),
) -> Marker:
    """Put the groups of the sources `keys` anew into a shard that is done; return its marker.

    Nothing is written where the same samples failed again. The marker goes first and comes back last: what is cut off
    in between is a shard to be made, by `retry` or `generate`. Predictions on the shard are deleted.
    Raises ShardError where a source is missing or doubled, or other versions made the rest of the shard.
    """
    check_whole(index, keys, results)
    marker = rundir.marker(index)
    quarantined = rundir.read_quarantine(index)
    new = partition(results, rundir.info.images)
    if new.quarantined == [each for each in quarantined if each.source_key in keys]:
        return marker
    for package, version in versions().items():
        if marker.versions.get(package, version) != version:
            raise ShardError(
                f"shard {index} was made with {package} {marker.versions[package]}, here is {version}: retry with what "
                f"made it, or delete {rundir.storage.name(marker_path(index))}, and `generate` makes all of it again"
            )
    outcome = Outcome.of(
        [
            *(sample for sample in read_samples(rundir, index) if sample.source_key not in keys),
            *new.accepted,
            *new.rejected,
        ],
        [*(each for each in quarantined if each.source_key not in keys), *new.quarantined],
    )
    total = Counter(marker.seconds) + Counter(seconds)
    rundir.check_lease()
    rundir.storage.delete(marker_path(index))
    for classifier in rundir.storage.list(PREDICTIONS):
        rundir.storage.delete(f"{PREDICTIONS}/{classifier}/{index:06d}.parquet")
    made_with = made_on(marker.versions, machines)
    return commit_outcome(rundir, index, outcome, total, made_with, marker.allocation, marker.early, marker.calls)


def note_retry(rundir: RunDirectory, before: Retry, after: Retry) -> None:
    """Write down a retry: what later phases made before it is of other shards."""
    done: list[Json] = rundir.read_json(RETRIES) if rundir.exists(RETRIES) else []  # type: ignore[assignment]  # ours
    shards: list[Json] = [*sorted(before.sources)]
    rundir.write_json(
        RETRIES, [*done, {"before": dict(before.reasons), "after": dict(after.reasons), "shards": shards}]
    )
