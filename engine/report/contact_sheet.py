"""The contact sheet of `counterforge show`: one row a source, with its placebo and its edits, accepted or not."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.errors import RunDirectoryError, ShardError
from engine.report.pictures import contact_sheet
from engine.report.results import read_digests, read_guesses, read_results
from engine.report.rows import Guess, choose_rows, make_rows
from engine.run.directory import RunDirectory
from engine.sample import Sample
from engine.shards.tar import decode_shard

# Enough for two kinds of edit by four editors, each with its placebo.
MAX_COLUMNS = 14
# Shards are read until they have so many times the requested rows, enough to take the classes in turn.
CHOICE = 3


def sheet_of_run(rundir: RunDirectory, num_rows: int) -> bytes:
    """Return a PNG of sources of a run, with each arm's predictions where there are any.

    Raises RunDirectoryError where no shard is finished.
    """
    samples: list[Sample] = []
    shards: list[int] = []
    for index in rundir.done():
        shards.append(index)
        samples += [*rundir.read_shard(index), *rundir.read_rejected(index)]
        if len({sample.source_key for sample in samples}) >= CHOICE * num_rows:
            break
    if not shards:
        raise RunDirectoryError(f"{rundir.storage} has no finished shard yet: run `counterforge generate` first")
    digests = read_digests(read_results(rundir, rundir.run()))
    return _sheet(samples, read_guesses(rundir, digests, shards), num_rows, str(rundir.storage))


def sheet_of_shard(path: Path, num_rows: int) -> bytes:
    """Return a PNG of the sources of one shard file; ShardError where it is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunDirectoryError(
            f"cannot read {path}: {error.strerror}: name a run directory or a shard of one"
        ) from error
    return _sheet(decode_shard(data, str(path)), {}, num_rows, str(path))


def _sheet(samples: Sequence[Sample], guesses: Mapping[str, Mapping[str, Guess]], num_rows: int, name: str) -> bytes:
    # Rejected samples have no pixels where keep_rejected is metadata.
    rows = make_rows([sample for sample in samples if sample.image], guesses, MAX_COLUMNS)
    if not rows:
        raise ShardError(f"{name} has no source with an edit: there is nothing to show")
    return contact_sheet(choose_rows(rows, num_rows))
