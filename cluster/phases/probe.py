"""The probe phase: predictions for every source, placebo and accepted edit, and the weakness table from them.

It reads accepted samples only: a rejected placebo is no fair control for accepted edits.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster.phases.classifiers import ClassifierRef, Panel, Question, ask
from engine.errors import LeakError, RunError, ShardError
from engine.evaluation.confusion import wrong_order
from engine.probe.findings import ClassifierPredictions, findings
from engine.probe.weakness import Weakness
from engine.rounds.allocation import shards_by_round
from engine.run.directory import WEAKNESS, RunDirectory
from engine.runfile.run import RunFile
from engine.sample import Sample
from engine.shards.record import ATTRIBUTE, Fields
from engine.shards.rows import edit_columns, read_candidates
from engine.storage.parquet import parquet_bytes

if TYPE_CHECKING:
    from actors.classifier.classifier import Classifier

LOG = logging.getLogger(__name__)
FOLDER = "probe"
# More tasks cost the scheduler more than they gain. A task writes its shards one by one.
MAX_TASKS = 2000


def probe_run(run: RunFile, rundir: RunDirectory) -> Weakness:
    """Probe the run's classifiers on all finished shards, write weakness.json and return the first one's table.

    Shards with predictions are skipped. Raises ModelError, LeakError, RunError where no shard is done.
    """
    first = ClassifierRef(config=run.probe, classes=rundir.info.classes, offline=run.offline)
    models = [run.probe.model_copy(update={"model": model, "callable": None}) for model in run.probe.transfer]
    refs = [first, *(replace(first, config=config) for config in models)]
    digests = [ref.digest() for ref in refs]
    ask([each for digest, ref in zip(digests, refs, strict=True) for each in questions({digest: ref}, rundir)], "probe")
    answers, *others = (
        ClassifierPredictions(classifier=ref.name, digest=digest, predictions=read_predictions(rundir, digest))
        for ref, digest in zip(refs, digests, strict=True)
    )
    table, content = findings(answers, others, run.probe, seed=run.seed, rounds=_rounds(run, rundir))
    notes = _output_notes(run, answers.predictions, first.classes)
    for note in notes:
        LOG.warning("probe: %s", note)
    rundir.write_json(WEAKNESS, {**content, "output_notes": list(notes)})
    return table


def _rounds(run: RunFile, rundir: RunDirectory) -> dict[str, int] | None:
    """Return the round of each source by key, None for a run of one round."""
    if run.rounds.count == 1:
        return None
    plan = rundir.plan()
    return {
        key: number
        for number, shards in enumerate(shards_by_round(plan, run.rounds), 1)
        for index in shards
        for key in plan.keys(index)
    }


def probe_shards(ref: ClassifierRef, rundir: RunDirectory, shards: Sequence[int] | None = None) -> str:
    """Write missing predictions of all or some shards; return the digest that names their folder."""
    digest = ref.digest()
    ask(questions({digest: ref}, rundir, shards), "probe")
    return digest


def questions(
    refs: Mapping[str, ClassifierRef], rundir: RunDirectory, shards: Sequence[int] | None = None
) -> list[Question[None]]:
    """Return the questions for the missing predictions of all finished shards, or of some, by a panel's digests.

    Raises RunError where no shard is done.
    """
    done = rundir.done() if shards is None else shards
    if not done:
        raise RunError(f"{rundir.storage} has no shard that is done: run `counterforge generate` first")
    missing: dict[int, list[str]] = {}
    for digest, ref in refs.items():
        for index in _pending(ref, digest, rundir, done):
            missing.setdefault(index, []).append(digest)
    panel, rows = Panel(refs=tuple(refs.values())), sorted(missing.items())
    size = ceil(len(rows) / MAX_TASKS) or 1
    return [
        Question(panel=panel, task=partial(_probe_shards, rundir, tuple(refs), dict(rows[start : start + size])))
        for start in range(0, len(rows), size)
    ]


def _pending(ref: ClassifierRef, digest: str, rundir: RunDirectory, done: Sequence[int]) -> list[int]:
    """Return the shards that a classifier has no predictions of, and log both numbers."""
    present = set(rundir.storage.list(f"{FOLDER}/{digest}", ".parquet"))
    pending = [index for index in done if f"{index:06d}.parquet" not in present]
    if pending:
        LOG.info("probe: %d of %d shards by %s", len(pending), len(done), ref.name)
    if num_known := len(done) - len(pending):
        same = "its files" if ref.config.model else "source file, probe.files and probe.version (another one asks anew)"
        LOG.info("probe: predictions of %d shards by %s are used again: %s are the same", num_known, ref.name, same)
    return pending


def read_predictions(rundir: RunDirectory, digest: str, shards: Sequence[int] | None = None) -> pa.Table:
    """Return the predictions of one classifier on every finished shard (or on some), with their split keys."""
    paths = [predictions_path(digest, index) for index in (rundir.done() if shards is None else shards)]
    # A shard has a column for each attribute that its images have.
    tables = [read_candidates(rundir.storage.read(path)) for path in paths]
    table = pa.concat_tables(tables, promote_options="default")
    keys = rundir.plan().split_keys()
    return table.append_column("split_key", pa.array([keys[key] for key in table["source_key"].to_pylist()]))


def _output_notes(run: RunFile, predictions: pa.Table, classes: tuple[str, ...]) -> list[str]:
    """Return what a reader must know of the classifier's outputs: a wrong order, and classes beyond the run's."""
    from actors.classifier.settings import settings_of

    sources = predictions.filter(pc.equal(predictions["role"], "source"))
    order = wrong_order(sources["label"], sources["prediction"], classes)
    settings = settings_of(run.probe.model, run.offline) if run.probe.model else None
    return [*([order] if order else []), *(settings.restriction(classes) if settings else ())]


def predictions_path(digest: str, index: int) -> str:
    """Return the path of the predictions of one classifier on one shard."""
    return f"{FOLDER}/{digest}/{index:06d}.parquet"


def predict_samples(classifiers: "Sequence[Classifier]", samples: Sequence[Sample]) -> list[pa.Table]:
    """Return a table for each classifier, with one row for each sample."""
    from actors.classifier.classifier import predict_all

    found = predict_all(classifiers, [sample.image for sample in samples])
    return [_table(samples, probabilities) for probabilities in found]


def _table(samples: Sequence[Sample], probabilities: NDArray[np.float32]) -> pa.Table:
    prediction = probabilities.argmax(axis=1)
    rows = [
        _describe(sample)
        | {"prediction": int(best), "confidence": float(row[best]), "p_label": float(row[sample.label])}
        for sample, best, row in zip(samples, prediction, probabilities, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=_schema(Fields.of(samples).attributes))


def _probe_shards(
    rundir: RunDirectory,
    digests: Sequence[str],
    missing: Mapping[int, Sequence[str]],
    classifiers: "Sequence[Classifier]",
) -> None:
    """Write the missing predictions of some shards. Runs in the actor of the panel."""
    from actors.images.codec import UnreadableImageError

    by_digest = dict(zip(digests, classifiers, strict=True))
    for index, wanted in missing.items():
        samples = rundir.read_shard(index)
        leaked = next((sample for sample in samples if sample.split == "test"), None)
        if leaked is not None:
            raise LeakError(f"shard {index} holds {leaked.key!r} of the test split: make the run again in a new folder")
        try:
            tables = predict_samples([by_digest[digest] for digest in wanted], samples)
        except UnreadableImageError as error:
            raise ShardError(
                f"shard {index} holds an image that cannot be read ({error}): check it with `counterforge verify`"
            ) from error
        for digest, table in zip(wanted, tables, strict=True):
            rundir.storage.write(predictions_path(digest, index), parquet_bytes(table))


def _describe(sample: Sample) -> dict[str, Any]:
    return {
        "key": sample.key,
        "source_key": sample.source_key,
        "role": sample.role,
        "split": sample.split,
        "label": sample.label,
        "class_name": sample.class_name,
        **edit_columns(sample.edit),
        "accepted": sample.is_accepted,
        **{ATTRIBUTE + name: text for name, text in sample.attributes.items() if text},
    }


def _schema(attributes: Sequence[str]) -> pa.Schema:
    of_edits = ("edit_kind", "edit_before", "edit_after", "edit_strategy")
    text = ("key", "source_key", "role", "split", "class_name", *of_edits, *(ATTRIBUTE + name for name in attributes))
    numbers = {
        "label": pa.int32(),
        "edit_severity": pa.float64(),
        "edit_turn": pa.int32(),
        "edit_steered": pa.bool_(),
        "accepted": pa.bool_(),
        "prediction": pa.int32(),
        "confidence": pa.float32(),
        "p_label": pa.float32(),
    }
    return pa.schema({**dict.fromkeys(text, pa.string()), **numbers})
