"""Score every arm of a run on its test sets and on the edits. The test split of a run is read here and nowhere else."""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from typing import Any

from cluster.phases.classifiers import ClassifierRef, Panel, Question, ask, held_together
from cluster.phases.evaluate import (
    Evaluation,
    LabelledSet,
    Result,
    ask_set,
    attribute_names,
    joined,
    score_answers,
)
from cluster.phases.probe import questions, read_predictions
from engine.canonical import as_json, json_digest
from engine.errors import SourceError
from engine.evaluation.comparison import Comparison, PairedImages
from engine.evaluation.groups import Dominant, conflicts, dominant_values, group_counts
from engine.plan.plan import Plan
from engine.probe.before_after import edit_drops
from engine.probe.pairs import Pairs, read_pairs
from engine.probe.weakness import weakness
from engine.run.directory import EVALUATION, REINFORCE, RunDirectory
from engine.runfile.arms import BASE
from engine.runfile.fields import ModelConfig
from engine.runfile.run import RunFile
from engine.sample import Json
from engine.sources import open_source

LOG = logging.getLogger(__name__)


def evaluate_arms(run: RunFile, rundir: RunDirectory) -> dict[str, Json]:
    """Score the base classifier and each arm on the test sets and on the edits; write and return evaluation.json.

    What is there already is returned where the same classifiers were scored on the same data.
    """
    refs = arm_refs(run, rundir)
    digests = {arm: ref.digest() for arm, ref in refs.items()}
    plan = rundir.plan()
    sets = test_sets(run, plan)
    name = _evaluation_name(run, rundir, digests, sets)
    earlier: Any = rundir.read_json(EVALUATION) if rundir.exists(EVALUATION) else {}
    done: dict[str, Json] | None = earlier if earlier.get("name") == name else None
    answers = _ask_arms(refs, digests, rundir, {} if done else sets)
    if done is not None:
        LOG.info("evaluate: done already")
        return done
    training = [item for item, _ in plan.of_split("train")]
    group_by = attribute_names(training, run.report.group_by or None)
    dominant, counts = dominant_values(training, group_by), group_counts(training, group_by)
    scored = {
        set_name: {
            arm: score_answers(
                answers[arm, set_name], rundir.info.classes, group_by, dominant, counts, confidence=run.probe.confidence
            )
            for arm in refs
        }
        for set_name in sets
    }
    scored.setdefault("shifted", scored["test"])
    content: dict[str, Json] = {
        "name": name,
        "arms": {
            arm: {
                "digest": digests[arm],
                "test": scored["test"][arm].to_json(),
                "shifted": scored["shifted"][arm].to_json(),
                **edits,
            }
            for arm, edits in _edits(run, rundir, digests).items()
        },
        "comparisons": [
            asdict(comparison)
            for set_name, labelled in sets.items()
            for comparison in compare_arms(scored[set_name], labelled, dominant, run, set_name)
        ],
        "group_by": list(group_by),
        "dominant": {class_name: dict(values) for class_name, values in dominant.items()},
    }
    rundir.write_json(EVALUATION, content)
    return content


def arm_refs(run: RunFile, rundir: RunDirectory) -> dict[str, ClassifierRef]:
    """Return the base classifier and the arms that reinforce.json names, in that order."""
    classes = rundir.info.classes
    refs = {BASE: ClassifierRef(config=run.probe, classes=classes, offline=run.offline)}
    reinforced: Any = rundir.read_json(REINFORCE) if rundir.exists(REINFORCE) else {"arms": {}}
    folders = {arm: content["model"] for arm, content in reinforced["arms"].items() if "model" in content}
    return refs | {arm: trained_ref(run, rundir, folder) for arm, folder in folders.items()}


def trained_ref(run: RunFile, rundir: RunDirectory, folder: str) -> ClassifierRef:
    """Return the classifier that a training saved in a folder of the run directory."""
    dtype = run.probe.model.dtype if run.probe.model else "float32"
    config = run.probe.model_copy(update={"model": ModelConfig(name=folder, dtype=dtype), "callable": None})
    return ClassifierRef(config=config, classes=rundir.info.classes, offline=run.offline, storage=rundir.storage)


def test_sets(run: RunFile, plan: Plan) -> dict[str, LabelledSet]:
    """Return the in-distribution set `test`, and `shifted` where the run file names one; SourceError without images."""
    sets = {"test": LabelledSet(source=run.data.train, items=[item for item, _ in plan.of_split("test")])}
    for name, source in (("test", run.data.test), ("shifted", run.data.shifted)):
        if source is not None:
            sets[name] = LabelledSet(source=source, items=list(open_source(source).items()))
    if not sets["test"].items:
        raise SourceError("there is no test image: set data.test, or raise data.splits.test")
    return sets


def _ask_arms(
    refs: Mapping[str, ClassifierRef],
    digests: Mapping[str, str],
    rundir: RunDirectory,
    sets: Mapping[str, LabelledSet],
) -> dict[tuple[str, str], list[Result]]:
    """Ask each arm about the shards that it has no predictions for, and return its results on each set."""
    asked: list[Question[Any]] = []
    places: dict[tuple[tuple[str, ...], str], slice] = {}
    for part in held_together(refs):
        chosen, panel = tuple(part), Panel(refs=tuple(part.values()))
        asked += questions({digests[arm]: ref for arm, ref in part.items()}, rundir)
        for set_name, labelled in sets.items():
            LOG.info("evaluate: %s on %d %s images", ", ".join(chosen), len(labelled.items), set_name)
            about = ask_set(panel, labelled)
            places[chosen, set_name] = slice(len(asked), len(asked) + len(about))
            asked += about
    answers = ask(asked, "evaluate")
    return {
        (arm, set_name): results
        for (chosen, set_name), place in places.items()
        for arm, results in zip(chosen, joined(answers[place]), strict=True)
    }


def compare_arms(
    evaluations: Mapping[str, Evaluation], labelled: LabelledSet, dominant: Dominant, run: RunFile, set_name: str
) -> list[Comparison]:
    """Compare each arm with those before it on the same images: all, and those whose class and attribute conflict."""
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


def _edits(run: RunFile, rundir: RunDirectory, digests: Mapping[str, str]) -> dict[str, dict[str, Json]]:
    """Return each arm's overall row and drops by kind on edits of validation sources, which no arm was trained on."""
    pairs = {arm: _validation_pairs(rundir, digest) for arm, digest in digests.items()}
    overall = {arm: weakness(own, run.probe, seed=run.seed).overall for arm, own in pairs.items()}
    return {
        arm: {
            "edits": as_json(overall[arm]),
            "edits_by_kind": as_json(edit_drops(own, pairs[BASE], run.probe, seed=run.seed)),
        }
        for arm, own in pairs.items()
    }


def _validation_pairs(rundir: RunDirectory, digest: str) -> Pairs:
    import pyarrow.compute as pc

    predictions = read_predictions(rundir, digest)
    return read_pairs(predictions.filter(pc.equal(predictions["split"], "validation")))


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
        # `digests` say what `files` and `version` do.
        "probe": run.probe.model_dump(mode="json", exclude={"placement", "transfer", "files", "version"}),
    }
    return json_digest(made_of)
