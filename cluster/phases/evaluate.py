"""Score a classifier on labelled images of any source."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cluster.phases.classifiers import ClassifierRef, Panel, Question, ask
from engine.errors import SourceError
from engine.evaluation.confusion import wrong_order
from engine.evaluation.groups import Dominant, GroupKey, GroupReport, LabelledPrediction, group_report
from engine.plan.value_ranges import with_value_range
from engine.runfile.data import AnySource
from engine.runfile.probe import ProbeConfig
from engine.sample import Json, Rejection, Sample
from engine.sources import SourceItem, listing_remarks, open_source, read_sample
from engine.wording import name_some, words

if TYPE_CHECKING:
    from actors.classifier.classifier import Classifier

ITEMS_PER_TASK = 256
# A prediction, or the reason why the image cannot be read.
Result = LabelledPrediction | str

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LabelledSet:
    """The images of one test set."""

    source: AnySource
    items: Sequence[SourceItem]


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The number of a classifier's classes, whether its answers are restricted to some, and whether names match them.

    Without names they are taken in the order of `classes`.
    """

    number: int
    classes: tuple[str, ...]
    restricted: bool
    has_names: bool


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A classifier's scores on one labelled set, and its prediction of each item (None: the image cannot be read)."""

    report: GroupReport
    answers: Sequence[LabelledPrediction | None]
    group_by: tuple[str, ...]
    unreadable: Mapping[str, int]
    outputs: Outputs | None = None

    def to_json(self) -> dict[str, Json]:
        """Return the scores as plain JSON; unreadable images count in no accuracy."""
        outputs = {} if self.outputs is None else self._outputs_json(self.outputs)
        return {
            **self.report.to_json(),
            "group_by": list(self.group_by),
            "unreadable": dict(self.unreadable),
            **outputs,
        }

    def _outputs_json(self, outputs: Outputs) -> dict[str, Json]:
        read = [answer for answer in self.answers if answer is not None]
        return {
            "model_classes": outputs.number,
            "restricted": outputs.restricted,
            "num_other_answers": sum(answer.predicted not in self.report.classes for answer in read),
            "taken_in_order": None if outputs.has_names else list(outputs.classes),
            "wrong_order": _wrong_order(read, outputs.classes),
        }


def evaluate_model(
    config: ProbeConfig,
    source: AnySource,
    *,
    classes: Sequence[str] | None = None,
    restricted: bool = False,
    group_by: Sequence[str] | None = None,
    dominant: Dominant | None = None,
    offline: bool = False,
    min_n: int = 10,
) -> Evaluation:
    """Score a checkpoint or function on a whole labelled source, by groups of class and attributes (None: all of them).

    `classes` are those of a function or of a checkpoint without names, in the order of its outputs; by default those of
    the source. A checkpoint answers with all its classes, with `restricted` with the source's alone. `dominant` has the
    dominant values of the training data; without it there are no conflicts. Raises ModelError, SourceError.
    """
    where = getattr(source, "path", source.kind)
    source = with_value_range(source, where)
    opened = open_source(source)
    labelled = LabelledSet(source=source, items=list(opened.items()))
    if not labelled.items:
        raise SourceError(f"there are no images in {where}: nothing to evaluate on")
    for remark in listing_remarks(opened):
        logger.warning("%s", remark)
    if unknown := sorted(set(opened.classes) - set(classes or opened.classes)):
        raise SourceError(f"the images have the classes {name_some(unknown)}, which --classes leaves out: name all")
    ref = ClassifierRef(config=config, classes=tuple(classes or opened.classes), offline=offline, restricted=restricted)
    group_by = attribute_names(labelled.items, group_by)
    panel = Panel(refs=(ref,))
    asked: list[Question[Any]] = [Question(panel=panel, task=_outputs), *ask_set(panel, labelled)]
    outputs, *parts = ask(asked, "evaluate")
    (results,) = joined(parts)
    reasons = Counter(result for result in results if isinstance(result, str))
    if reasons.total() == len(results):
        seen = ", ".join(f"{count} {words(reason)}" for reason, count in reasons.most_common())
        raise SourceError(f"none of the {len(results)} images of {where} can be read ({seen}): nothing to score")
    scored = score_answers(results, opened.classes, group_by, dominant or {}, {}, min_n=min_n)
    return replace(scored, outputs=outputs)


def ask_set(panel: Panel, labelled: LabelledSet) -> list[Question[list[list[Result]]]]:
    """Return the questions about a set, each for the results of all classifiers on some of its images."""
    items = labelled.items
    return [
        Question(panel=panel, task=partial(_answer_items, labelled.source, items[start : start + ITEMS_PER_TASK]))
        for start in range(0, len(items) or 1, ITEMS_PER_TASK)
    ]


def joined(parts: Sequence[list[list[Result]]]) -> list[list[Result]]:
    """Return the results of each classifier on a set, in the order of its items, from the answers of `ask_set`."""
    return [list(chain.from_iterable(each)) for each in zip(*parts, strict=True)]


def score_answers(
    results: Sequence[Result],
    classes: Sequence[str],
    group_by: Sequence[str],
    dominant: Dominant,
    training: Mapping[GroupKey, int],
    *,
    confidence: float = 0.95,
    min_n: int = 10,
) -> Evaluation:
    """Score the results of a classifier on a set; `training` counts the images of each group in the training data."""
    answers = [result if isinstance(result, LabelledPrediction) else None for result in results]
    read = [answer for answer in answers if answer is not None]
    report = group_report(read, classes, group_by, dominant, training, confidence=confidence, min_n=min_n)
    reasons = Counter(result for result in results if isinstance(result, str))
    unreadable = dict(sorted(reasons.items()))
    return Evaluation(report=report, answers=answers, group_by=tuple(group_by), unreadable=unreadable)


def attribute_names(items: Sequence[SourceItem], group_by: Sequence[str] | None) -> list[str]:
    """Return the attributes to group by: `group_by`, or all; SourceError for one that no image has."""
    known = sorted({name for item in items for name in item.attributes})
    if group_by is None:
        return known
    if unknown := [name for name in group_by if name not in known]:
        raise SourceError(f"group_by asks for {unknown}, the images have the attributes {known}: choose among these")
    return list(group_by)


def _answer_items(
    config: AnySource, items: Sequence[SourceItem], classifiers: "Sequence[Classifier]"
) -> list[list[Result]]:
    """Return each classifier's results: predictions, or why an item cannot be read. Runs in the actor of the panel."""
    from actors.classifier.classifier import predict_all

    source = open_source(config)
    read = [read_sample(source, item, "test") for item in items]
    found = predict_all(classifiers, [result.image for result in read if not isinstance(result, Rejection)])
    return [_results(items, read, *each) for each in zip(found, classifiers, strict=True)]


def _results(
    items: Sequence[SourceItem],
    read: Sequence[Sample | Rejection],
    found: NDArray[np.float32],
    classifier: "Classifier",
) -> list[Result]:
    """Return one classifier's results, of its probabilities for the images that were read."""
    probabilities, classes = iter(found), classifier.classes
    answers: list[Result] = []
    for item, result in zip(items, read, strict=True):
        if isinstance(result, Rejection):
            answers.append(result.reason)
            continue
        row = next(probabilities)
        best = int(np.argmax(row))
        predicted = (*classes, *classifier.others)[best]
        p_label = float(row[classes.index(item.class_name)]) if item.class_name in classes else 0.0
        answers.append(
            LabelledPrediction(
                class_name=item.class_name,
                attributes=dict(item.attributes),
                predicted=predicted,
                # By name: another source may have its classes in another order.
                is_right=best < len(classes) and predicted == item.class_name,
                confidence=float(row[best]),
                p_label=p_label,
            )
        )
    return answers


def _outputs(classifiers: "Sequence[Classifier]") -> Outputs:
    """Return what the one classifier of a panel answers with. Runs in its actor."""
    (classifier,) = classifiers
    known = len(classifier.classes) + len(classifier.others)
    return Outputs(
        number=classifier.num_outputs,
        classes=classifier.classes,
        restricted=known < classifier.num_outputs,
        has_names=classifier.has_names,
    )


def _wrong_order(answers: Sequence[LabelledPrediction], classes: tuple[str, ...]) -> str | None:
    place = {name: index for index, name in enumerate(classes)}
    known = [each for each in answers if each.predicted in place]
    labels, predictions = [place[each.class_name] for each in known], [place[each.predicted] for each in known]
    return wrong_order(labels, predictions, classes)
