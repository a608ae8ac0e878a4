"""Score classifiers on labelled images: one on any source, or every arm of a run on its test sets.

The test split of a run is read here and nowhere else.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from cluster.classifiers import ClassifierRef, ask_classifier
from cluster.probe import probe_shards, read_predictions
from engine.comparison import Comparison, PairedImages
from engine.errors import SourceError
from engine.groups import (
    Answer,
    Dominant,
    GroupKey,
    GroupReport,
    conflicts,
    dominant_values,
    group_counts,
    group_report,
)
from engine.pairs import read_pairs
from engine.plan import Plan
from engine.rundir import EVALUATION, REINFORCE, RunDirectory
from engine.runfile import AnySource, ProbeConfig, RunFile
from engine.sample import Json, Rejection
from engine.sources import SourceItem, open_source, read_sample
from engine.stages import ModelConfig
from engine.weakness import weakness

if TYPE_CHECKING:
    from actors.classifier import Classifier

LOG = logging.getLogger(__name__)
PATIENT = "patient"
ITEMS_PER_TASK = 256


@dataclass(frozen=True, kw_only=True)
class LabelledSet:
    """Name the images of one test set."""

    source: AnySource
    items: Sequence[SourceItem]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Hold a classifier's scores on one labelled set, and its answer to each item (None: the image cannot be read)."""

    report: GroupReport
    answers: Sequence[Answer | None]
    group_by: tuple[str, ...]
    unreadable: Mapping[str, int]

    def to_json(self) -> dict[str, Json]:
        """Return the scores as plain JSON; unreadable images are counted by reason and by nobody's accuracy."""
        return {**self.report.to_json(), "group_by": list(self.group_by), "unreadable": dict(self.unreadable)}


def evaluate_model(
    config: ProbeConfig,
    source: AnySource,
    *,
    group_by: Sequence[str] | None = None,
    dominant: Dominant | None = None,
    offline: bool = False,
    min_n: int = 10,
) -> Evaluation:
    """Score a checkpoint or function on a whole labelled source, by groups of class and attributes (None: all of them).

    `dominant` says what was usual in the training data; without it nothing is called a conflict. Raises ModelError,
    SourceError.
    """
    opened = open_source(source)
    labelled = LabelledSet(source=source, items=list(opened.items()))
    if not labelled.items:
        raise SourceError(f"there are no images in {getattr(source, 'path', source.kind)}: nothing to evaluate on")
    ref = ClassifierRef(config=config, classes=opened.classes, offline=offline)
    return evaluate_set(ref, labelled, attribute_names(labelled.items, group_by), dominant or {}, {}, min_n=min_n)


def evaluate_arms(run: RunFile, rundir: RunDirectory) -> dict[str, Json]:
    """Score the patient and each fine-tuned arm on the test sets and on the edits; write and return evaluation.json.

    What is there already is returned where the same classifiers were scored on the same data.
    """
    refs = arm_refs(run, rundir)
    digests = {arm: probe_shards(ref, rundir) for arm, ref in refs.items()}
    plan = rundir.plan()
    sets = test_sets(run, plan)
    name = _evaluation_name(run, rundir, digests, sets)
    if (done := _finished(rundir, name)) is not None:
        LOG.info("evaluate: done already")
        return done
    training = [item for item, _ in plan.of_split("train")]
    group_by = attribute_names(training, run.report.group_by or None)
    dominant, counts = dominant_values(training, group_by), group_counts(training, group_by)
    scored: dict[str, dict[str, Evaluation]] = {}
    for arm, ref in refs.items():
        for set_name, labelled in sets.items():
            LOG.info("evaluate: %s on %d %s images", arm, len(labelled.items), set_name)
            evaluation = evaluate_set(ref, labelled, group_by, dominant, counts, confidence=run.probe.confidence)
            scored.setdefault(set_name, {})[arm] = evaluation
    scored.setdefault("shifted", scored["test"])
    content: dict[str, Json] = {
        "name": name,
        "arms": {
            arm: {
                "digest": digests[arm],
                "test": scored["test"][arm].to_json(),
                "shifted": scored["shifted"][arm].to_json(),
                "edits": _edits(run, rundir, digests[arm]),
            }
            for arm in refs
        },
        "comparisons": [
            comparison.to_json()
            for set_name, labelled in sets.items()
            for comparison in compare_arms(scored[set_name], labelled, dominant, run, set_name)
        ],
        "group_by": list(group_by),
        "dominant": {class_name: dict(values) for class_name, values in dominant.items()},
    }
    rundir.write_json(EVALUATION, content)
    return content


def arm_refs(run: RunFile, rundir: RunDirectory) -> dict[str, ClassifierRef]:
    """Return the patient and the arms that reinforce.json names, in that order."""
    classes = rundir.info.classes
    refs = {PATIENT: ClassifierRef(config=run.probe, classes=classes, offline=run.offline)}
    reinforced = rundir.read_json(REINFORCE) if rundir.exists(REINFORCE) else None
    arms = reinforced.get("arms") if isinstance(reinforced, dict) else None
    for arm, content in arms.items() if isinstance(arms, dict) else ():
        folder = content.get("model") if isinstance(content, dict) else None
        if arm == PATIENT or not isinstance(folder, str):
            continue
        refs[arm] = trained_ref(run, rundir, folder)
    return refs


def trained_ref(run: RunFile, rundir: RunDirectory, folder: str) -> ClassifierRef:
    """Return the classifier that a training saved in a folder of the run directory."""
    dtype = run.probe.model.dtype if run.probe.model else "float32"
    config = run.probe.model_copy(update={"model": ModelConfig(name=folder, dtype=dtype), "callable": None})
    return ClassifierRef(config=config, classes=rundir.info.classes, offline=run.offline, storage=rundir.storage)


def test_sets(run: RunFile, plan: Plan) -> dict[str, LabelledSet]:
    """Return the in-distribution set `test`, and `shifted` where the run file names one; SourceError without images."""
    test = LabelledSet(source=run.data.train, items=[item for item, _ in plan.of_split("test")])
    if run.data.test is not None:
        test = LabelledSet(source=run.data.test, items=list(open_source(run.data.test).items()))
    if not test.items:
        raise SourceError("there is no test image: set data.test, or raise data.splits.test")
    if run.data.shifted is None:
        return {"test": test}
    shifted = LabelledSet(source=run.data.shifted, items=list(open_source(run.data.shifted).items()))
    return {"test": test, "shifted": shifted}


def evaluate_set(
    ref: ClassifierRef,
    labelled: LabelledSet,
    group_by: Sequence[str],
    dominant: Dominant,
    training: Mapping[GroupKey, int],
    *,
    confidence: float = 0.95,
    min_n: int = 10,
) -> Evaluation:
    """Score a classifier on one labelled set; `training` counts the images of each group in the training data."""
    items = labelled.items
    tasks = [
        partial(_answer_items, labelled.source, start, items[start : start + ITEMS_PER_TASK], ref.classes)
        for start in range(0, len(items), ITEMS_PER_TASK)
    ]
    found: dict[int, list[Answer | str]] = dict(ask_classifier(ref, tasks))
    results = [result for start in sorted(found) for result in found[start]]
    answers = [result if isinstance(result, Answer) else None for result in results]
    reasons = [result for result in results if isinstance(result, str)]
    report = group_report(
        [answer for answer in answers if answer is not None],
        ref.classes,
        group_by,
        dominant,
        training,
        confidence=confidence,
        min_n=min_n,
    )
    unreadable = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    return Evaluation(report=report, answers=answers, group_by=tuple(group_by), unreadable=unreadable)


def attribute_names(items: Sequence[SourceItem], group_by: Sequence[str] | None) -> list[str]:
    """Return the attributes to group by: those asked for, which must be there, or all."""
    known = sorted({name for item in items for name in item.attributes})
    if group_by is None:
        return known
    if unknown := [name for name in group_by if name not in known]:
        raise SourceError(f"group_by asks for {unknown}, the images have the attributes {known}: choose among those")
    return list(group_by)


def _answer_items(
    config: AnySource, start: int, items: Sequence[SourceItem], classes: Sequence[str], classifier: "Classifier"
) -> tuple[int, list[Answer | str]]:
    """Return `start`, and each item's answer or the reason why it cannot be read. Runs where the classifier is."""
    source = open_source(config)
    read = [read_sample(source, item, "test") for item in items]
    probabilities = iter(classifier.predict([result.image for result in read if not isinstance(result, Rejection)]))
    answers: list[Answer | str] = []
    for item, result in zip(items, read, strict=True):
        if isinstance(result, Rejection):
            answers.append(result.reason)
            continue
        row = next(probabilities)
        best = int(np.argmax(row))
        # By name: another source may have its classes in another order.
        is_right = classes[best] == item.class_name
        p_label = float(row[classes.index(item.class_name)]) if item.class_name in classes else 0.0
        answers.append(
            Answer(
                class_name=item.class_name,
                attributes=dict(item.attributes),
                is_right=is_right,
                confidence=float(row[best]),
                p_label=p_label,
            )
        )
    return start, answers


def _edits(run: RunFile, rundir: RunDirectory, digest: str) -> Json:
    """Return the weakness table's overall row on edits of validation sources, which no arm was trained on."""
    import pyarrow.compute as pc

    predictions = read_predictions(rundir, digest)
    pairs = read_pairs(predictions.filter(pc.equal(predictions["split"], "validation")))
    table = weakness(pairs, run.probe, seed=run.seed)
    return table.overall.to_json() if table.overall else None


def compare_arms(
    evaluations: Mapping[str, Evaluation], labelled: LabelledSet, dominant: Dominant, run: RunFile, set_name: str
) -> list[Comparison]:
    """Return each arm against each before it on the same images: over all, and where class and attribute conflict."""
    items = labelled.items
    pairs = PairedImages(
        [item.split_key for item in items],
        num_draws=run.probe.num_bootstraps,
        confidence=run.probe.confidence,
        seed=run.seed,
    )
    readable = [all(evaluation.answers[index] for evaluation in evaluations.values()) for index in range(len(items))]
    in_conflict = [conflicts(dominant, item.class_name, item.attributes) is True for item in items]
    parts = {"all": readable, "conflict": [a and b for a, b in zip(readable, in_conflict, strict=True)]}
    right = {
        arm: [answer is not None and answer.is_right for answer in evaluation.answers]
        for arm, evaluation in evaluations.items()
    }
    found = [
        pairs.compare((arm, against), (right[arm], right[against]), chosen, test_set=set_name, where=where)
        for against, arm in combinations(evaluations, 2)
        for where, chosen in parts.items()
    ]
    return [comparison for comparison in found if comparison is not None]


def _evaluation_name(
    run: RunFile, rundir: RunDirectory, digests: Mapping[str, str], sets: Mapping[str, LabelledSet]
) -> str:
    made_of = {
        "plan": rundir.info.digest,
        "done": rundir.done(),
        "digests": dict(digests),
        "data": run.data.model_dump(mode="json"),
        "items": {name: [[item.locator, item.label] for item in labelled.items] for name, labelled in sets.items()},
        "group_by": list(run.report.group_by),
        "probe": run.probe.model_dump(mode="json", exclude={"placement", "transfer"}),
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


def _finished(rundir: RunDirectory, name: str) -> dict[str, Json] | None:
    content = rundir.read_json(EVALUATION) if rundir.exists(EVALUATION) else None
    return content if isinstance(content, dict) and content.get("name") == name else None
