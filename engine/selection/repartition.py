"""Repartition: a run's shards under other thresholds, written as a run directory of their own.

The source run is only read, so a wrong selection costs nothing but disk space. The new directory has its own run file,
plan digest and markers. Where all pixels are kept, its bytes are those that `generate` would have made with these
thresholds; unfinished shards can be generated in it.
"""

from dataclasses import replace

from engine.audit.files import verify_shard
from engine.errors import SelectionError, ShardError
from engine.plan.plan import plan_digest
from engine.rounds.allocation import FOLDER as ROUNDS
from engine.run.commit import Outcome, commit_outcome
from engine.run.directory import RunDirectory, marker_path
from engine.run.samples import read_samples
from engine.runfile.run import RunFile
from engine.runfile.verifier import VerifierConfig
from engine.sample import Sample
from engine.selection.early import FOLDER as EARLY_CUTS
from engine.selection.selection import judge, thresholds_of
from engine.shards.marker import Marker
from engine.storage.storage import Storage
from engine.verdicts.rule import is_early


def open_selection(rundir: RunDirectory, run: RunFile, out: str) -> RunDirectory:
    """Create or continue the run directory of `run`, the source's run file with other thresholds.

    Raises SelectionError where nothing changes, where `out` is the source itself, or where the source's run file is not
    the one that its plan was made from; RunDirectoryError where `out` belongs to something else.
    """
    plan = rundir.plan()
    source_run = rundir.run()
    digest = plan_digest(run, plan.classes, plan.table)
    if str(Storage(out)) == str(rundir.storage):
        raise SelectionError(
            f"--out {out} is the run itself: name a new folder. The run stays as it is, so that nothing is lost where "
            "thresholds prove too strict"
        )
    if plan_digest(source_run, plan.classes, plan.table) != rundir.info.digest:
        raise SelectionError(
            f"run.yaml of {rundir.storage} is not the one that its plan {rundir.info.digest[:12]} was made from: it "
            "was changed by hand, or another version of counterforge made the run. Restore it, or use that version"
        )
    if digest == rundir.info.digest:
        raise SelectionError("these are the thresholds that the run has: give others with --set, such as min_image=0.6")
    selected = RunDirectory.create(out, run, replace(plan, digest=digest))
    # Allocations and early-rejection cuts of the source hold whatever the thresholds.
    for folder in (ROUNDS, EARLY_CUTS):
        for name in rundir.storage.list(folder, ".json"):
            selected.storage.write(f"{folder}/{name}", rundir.storage.read(f"{folder}/{name}"))
    return selected


def select_shard(source: RunDirectory, selected: RunDirectory, run: RunFile, index: int) -> Marker:
    """Write one shard of the source with the thresholds of `run`, marker last; skip a finished one.

    Raises ShardError where a file of the source differs from its marker: damage must not get a new, valid hash.
    """
    if selected.exists(marker_path(index)):
        return selected.marker(index)
    for difference in verify_shard(source, index):
        raise ShardError(
            f"{source.storage.name(difference.path)} {difference.what}; nothing was written for shard {index}. To make "
            f"it again, delete {source.storage.name(marker_path(index))} and run `counterforge generate`"
        )
    marker = source.marker(index)
    config = thresholds_of(run)
    samples = [_judged(sample, config) for sample in read_samples(source, index)]
    outcome = Outcome.of(samples, source.read_quarantine(index))
    return commit_outcome(
        selected, index, outcome, marker.seconds, marker.versions, marker.allocation, marker.early, marker.calls
    )


def _judged(sample: Sample, config: VerifierConfig) -> Sample:
    if sample.role == "source" or sample.edit is None or is_early(sample.verdict):
        return sample
    text_changes = sample.edit.caption != sample.caption
    verdict = judge(sample.scores, config, text_changes=text_changes, has_pixels=bool(sample.image))
    # What signals say in words does not depend on floors.
    notes = sample.verdict.notes if sample.verdict is not None else {}
    return replace(sample, verdict=replace(verdict, notes=notes))
