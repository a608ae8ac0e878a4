"""An upper bound for the trade-off between conflict accuracy and accuracy on biased images.

A classifier that ignores the background loses accuracy on biased images, where the background helps with an ambiguous
garment. Even the oracle (trained on every background equally often) cannot have both. Its predictions, weighted by a
prior of growing strength for the usual class of a background, trace the best trade-off.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.classifier.classifier import Classifier
from cluster.phases.arms import test_sets
from cluster.phases.evaluate import LabelledSet
from cluster.studies.proofs.shifted import Shifted
from engine.evaluation.groups import Dominant
from engine.run.directory import RunDirectory
from engine.runfile.run import RunFile
from engine.sample import Rejection
from engine.sources import open_source, read_sample

# Strengths of the prior, in nats.
WEIGHTS = np.arange(0, 10.001, 0.05)
BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Predictions on n images: log probabilities (n, num_classes), labels (n,), groups (n,) of class and attributes.

    `usual` (n, num_classes) is 1 where the image has the dominant attribute values of the class.
    """

    log_p: NDArray[np.float64]
    labels: NDArray[np.intp]
    usual: NDArray[np.float64]
    groups: Sequence[str]

    def right(self, weight: float) -> NDArray[np.bool_]:
        """Return which predictions are right, (n,), if `weight` nats are added for usual classes."""
        found: NDArray[np.bool_] = (self.log_p + weight * self.usual).argmax(1) == self.labels
        return found

    def conflict_accuracy(self, weight: float) -> float:
        """Return the accuracy on images without the dominant values of their class."""
        conflict = self.usual[np.arange(len(self.labels)), self.labels] == 0
        return float(self.right(weight)[conflict].mean())

    def worst_group_accuracy(self, weight: float) -> float:
        """Return the lowest accuracy of a group."""
        right, groups = self.right(weight), np.asarray(self.groups)
        return float(min(right[groups == group].mean() for group in set(self.groups)))


def attainable(run: RunFile, rundir: RunDirectory, biased_accuracy: float) -> dict[str, float]:
    """Return the oracle's accuracies with the weakest prior that reaches `biased_accuracy` on biased images.

    The prior is chosen on the test images themselves, so this is an upper bound.
    """
    shifted = Shifted.of(run, rundir)
    model = run.probe.model
    assert model is not None
    oracle = model.model_copy(update={"name": str(rundir.storage.local_path("models/oracle"))})
    classes = tuple(rundir.info.classes)
    classifier = Classifier(run.probe.model_copy(update={"model": oracle}), classes, offline=run.offline)
    biased, balanced = (
        answer(classifier, images, classes, shifted.group_by, shifted.dominant)
        for images in (test_sets(run, rundir.plan())["test"], shifted.images)
    )
    weight = weakest_prior(biased, biased_accuracy)
    return {
        "conflict_accuracy": balanced.conflict_accuracy(weight),
        "worst_group_accuracy": balanced.worst_group_accuracy(weight),
        "accuracy_biased": float(biased.right(weight).mean()),
    }


def weakest_prior(biased: Answers, accuracy: float) -> float:
    """Return the lowest weight that reaches the accuracy on biased images, else the one with the highest accuracy."""
    found = np.array([biased.right(weight).mean() for weight in WEIGHTS])
    enough = np.flatnonzero(found >= accuracy)
    return float(WEIGHTS[enough[0] if len(enough) else found.argmax()])


def answer(
    classifier: Classifier, images: LabelledSet, classes: Sequence[str], group_by: Sequence[str], dominant: Dominant
) -> Answers:
    """Return a classifier's predictions on labelled images."""
    source = open_source(images.source)
    read = [(item, read_sample(source, item, "test")) for item in images.items]
    kept = [(item, sample.image) for item, sample in read if not isinstance(sample, Rejection)]
    items, pictures = zip(*kept, strict=True)
    p = np.concatenate([classifier.predict(pictures[at : at + BATCH]) for at in range(0, len(pictures), BATCH)])
    usual = [
        [float(all(item.attributes[name] == dominant[name_of][name] for name in group_by)) for name_of in classes]
        for item in items
    ]
    return Answers(
        log_p=np.log(np.maximum(p, 1e-30)).astype(np.float64),
        labels=np.array([classes.index(item.class_name) for item in items]),
        usual=np.array(usual),
        groups=[" ".join([item.class_name, *(item.attributes[name] for name in group_by)]) for item in items],
    )
