"""The commit of one shard: check that it is whole, write its files, and its marker last."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from engine.credentials import redact
from engine.errors import ShardError
from engine.run.directory import RunDirectory, marker_path, quarantine_path, rejected_path, rows_path, shard_path
from engine.run.info import Images
from engine.sample import ImageBytes, Rejection, Sample, sort_groups
from engine.shards.marker import Counts, FileRecord, Marker, made_on, versions
from engine.shards.record import Fields, dump_json
from engine.shards.rows import candidate_table, encode_candidates
from engine.shards.tar import encode_shard, image_extension
from engine.sources.decode import to_jpeg, to_png
from engine.sources.item import UnreadableItemError
from engine.verdicts.rule import is_early

NAME = "sink"
EXTENSIONS: dict[Images, str] = {"jpeg": ".jpg", "png": ".png"}
MAX_NAMED_KEYS = 3


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Hold the samples of one shard by where they go, each part sorted by group."""

    accepted: list[Sample]
    rejected: list[Sample]
    quarantined: list[Rejection]

    @classmethod
    def of(cls, samples: Sequence[Sample], quarantined: Sequence[Rejection]) -> "Outcome":
        """Sort samples by their verdict; sources and edits without a verdict are accepted."""
        ordered = sort_groups(samples)
        return cls(
            accepted=[sample for sample in ordered if _is_accepted(sample)],
            rejected=[sample for sample in ordered if not _is_accepted(sample)],
            quarantined=sorted(quarantined, key=lambda item: (item.source_key, item.key, item.stage, item.reason)),
        )

    def counts(self) -> Counts:
        """Count the samples as the marker does."""
        rejected = [sample for sample in self.rejected if sample.role == "counterfactual"]
        roles = Counter(sample.role for sample in self.accepted)
        given_up = sum(is_candidate(rejection) for rejection in self.quarantined)
        return Counts(
            sources=roles["source"],
            placebos=roles["placebo"],
            rejected_placebos=len(self.rejected) - len(rejected),
            candidates=roles["counterfactual"] + len(rejected) + given_up,
            accepted=roles["counterfactual"],
            rejected=_count(
                sample.verdict.reasons[0] if sample.verdict and sample.verdict.reasons else "unnamed"
                for sample in rejected
            ),
            quarantined=_count(rejection.reason for rejection in self.quarantined),
            quarantined_candidates=given_up,
        )


def commit_shard(
    rundir: RunDirectory,
    index: int,
    planned_keys: Collection[str],
    results: Sequence[Sample | Rejection],
    seconds: Mapping[str, float],
    allocation: str | None = None,
    early: str | None = None,
    calls: Mapping[str, int] | None = None,
    machines: Iterable[str] = (),
) -> Marker:
    """Write a whole shard and then its marker, and return the marker; a shard that is done is left as it is.

    `planned_keys` are the source keys of the plan. `seconds`, the time by stage, `calls`, what was asked of the models,
    the SHA-256 of the allocation that the edits were spent by and of the cut that dropped some, and the kinds of
    `machines` that ran the stages go into the marker.
    Raises ShardError where a source is missing, doubled or not planned, or another writer has committed other bytes,
    and RunDirectoryError where another process has taken the run over.
    """
    check_whole(index, planned_keys, results)
    if rundir.storage.exists(marker_path(index)):
        return rundir.marker(index)
    outcome = partition(results, rundir.info.images)
    return commit_outcome(rundir, index, outcome, seconds, made_on(versions(), machines), allocation, early, calls)


def commit_outcome(
    rundir: RunDirectory,
    index: int,
    outcome: Outcome,
    seconds: Mapping[str, float],
    made_with: Mapping[str, str],
    allocation: str | None = None,
    early: str | None = None,
    calls: Mapping[str, int] | None = None,
) -> Marker:
    """Write the files of a shard and then its marker, and return the marker.

    `made_with` names the versions and machines that made the pixels. Raises ShardError where another writer has
    committed other bytes.
    """
    files = _write_files(rundir, index, outcome)
    keys = [sample.key for sample in outcome.accepted if sample.role == "source"]
    marker = Marker(
        shard=index,
        plan=rundir.info.digest,
        files=files,
        counts=outcome.counts(),
        keys=(keys[0], keys[-1]) if keys else None,
        seconds={name: round(value, 6) for name, value in seconds.items()},
        versions=dict(made_with),
        calls=dict(calls or {}),
        allocation=allocation,
        early=early,
    )
    rundir.check_lease()
    if rundir.storage.create(marker_path(index), marker.to_json()):
        return marker
    first = rundir.marker(index)
    if first.files != marker.files:
        raise ShardError(
            f"shard {index} was committed by another writer with other bytes: stop one of the two, "
            f"delete {rundir.storage.name(marker_path(index))} and run `counterforge generate` again"
        )
    return first


def check_whole(index: int, planned_keys: Collection[str], results: Sequence[Sample | Rejection]) -> None:
    """Refuse a shard in which a planned source is missing, a key is doubled, or something is of no planned source."""
    planned = set(planned_keys)
    keys = Counter(result.key for result in results)
    sources = {result.key for result in results if result.key == result.source_key}
    missing = planned - sources
    doubled = {key for key, count in keys.items() if count > 1}
    foreign = {result.key for result in results if result.source_key not in planned}
    for found, words in (
        (missing, "planned sources are missing"),
        (doubled, "keys came more than once"),
        (foreign, "keys are of no source of this shard"),
    ):
        if found:
            some = ", ".join(sorted(found)[:MAX_NAMED_KEYS]) + (", ..." if len(found) > MAX_NAMED_KEYS else "")
            raise ShardError(
                f"shard {index} is not whole: {len(found)} {words} ({some}); {len(planned)} sources were planned. "
                "Every stage must yield each sample once, as a sample or as a rejection; nothing was written"
            )


def partition(results: Sequence[Sample | Rejection], images: Images) -> Outcome:
    """Sort the results of one shard; what has no image or no source is quarantined, and images become one kind."""
    # What a stage raised may quote the address that it asked, key and all.
    quarantined = [replace(result, detail=redact(result.detail)) for result in results if isinstance(result, Rejection)]
    samples: list[Sample] = []
    for result in results:
        if isinstance(result, Sample):
            match _storable(result, images):
                case Sample() as sample:
                    samples.append(sample)
                case Rejection() as rejection:
                    quarantined.append(rejection)
    sources = {sample.key for sample in samples if sample.role == "source"}
    orphans = [sample for sample in samples if sample.source_key not in sources]
    quarantined += [
        _reject(sample, "no_source", "its source was given up after the edit was made") for sample in orphans
    ]
    return Outcome.of([sample for sample in samples if sample.source_key in sources], quarantined)


def is_candidate(rejection: Rejection) -> bool:
    """Return whether a rejection is of a counterfactual, not of a source or a placebo: its key tells."""
    return rejection.key != rejection.source_key and "placebo" not in rejection.key.removeprefix(rejection.source_key)


def _write_files(rundir: RunDirectory, index: int, outcome: Outcome) -> dict[str, FileRecord]:
    """Write the files of a shard; those that would be empty are left out, except the shard itself and its rows."""
    keep = rundir.info.keep_rejected
    # What was dropped early never had a picture: its row is all there is of it.
    rejected = [sample for sample in outcome.rejected if not is_early(sample.verdict)] if keep != "none" else []
    lines = "".join(dump_json(asdict(rejection)) + "\n" for rejection in outcome.quarantined)
    samples = sort_groups([*outcome.accepted, *outcome.rejected])
    # All three files have the same fields: what passes is then no matter of the form.
    fields = Fields.of(samples)
    rows = candidate_table(samples, index, fields)
    contents: list[tuple[str, bytes | Iterator[ImageBytes], int]] = [
        (rejected_path(index), encode_shard(rejected, fields, images=keep == "all"), len(rejected)),
        (quarantine_path(index), lines.encode(), len(outcome.quarantined)),
        (rows_path(index), encode_candidates(rows), rows.num_rows),
        (shard_path(index), encode_shard(outcome.accepted, fields), len(outcome.accepted)),
    ]
    always = (rows_path(index), shard_path(index))
    files = {}
    for path, content, count in contents:
        if not count and path not in always:
            # An earlier try that was cut off may have left one.
            rundir.storage.delete(path)
            continue
        rundir.check_lease()
        stored = rundir.storage.write(path, content)
        files[path] = FileRecord(blake3=stored.blake3, bytes=stored.size_bytes, samples=count)
    return files


def _storable(sample: Sample, images: Images) -> Sample | Rejection:
    if is_early(sample.verdict):
        return sample
    if not sample.image:
        return _reject(sample, "no_image", "no stage made an image; an editor must come before the end of the pipeline")
    if image_extension(sample.image) == EXTENSIONS[images]:
        return sample
    # Our own stages give what is stored, so that their scores are of these bytes; a plugin may give something else.
    encode = to_png if images == "png" else to_jpeg
    try:
        return replace(sample, image=encode(sample.image))
    except UnreadableItemError as error:
        return _reject(sample, error.reason, error.detail)


def _reject(sample: Sample, reason: str, detail: str) -> Rejection:
    return Rejection(key=sample.key, source_key=sample.source_key, stage=NAME, reason=reason, detail=detail)


def _is_accepted(sample: Sample) -> bool:
    return sample.role == "source" or sample.is_accepted


def _count(reasons: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(reasons).items()))
