"""What could be had: the oracle's answers, weighed by how usual each class is with what else is seen.

A classifier that ignores the background gives up, on biased images, what the background tells of a garment that could
be two things. So curing and not forgetting pull apart, and even the oracle cannot have both. Weighed by a prior of
growing strength, its answers draw the line between the two.
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
    """Hold log probabilities (n, num_classes), labels (n,), and of which classes each image has what is usual.

    `usual` (n, num_classes) is 1 there, `groups` (n,) names class and attributes.
    """

    log_p: NDArray[np.float64]
    labels: NDArray[np.intp]
    usual: NDArray[np.float64]
    groups: Sequence[str]

    def right(self, weight: float) -> NDArray[np.bool_]:
        """Return which are right, (n,), where a usual class has the start of `weight`."""
        found: NDArray[np.bool_] = (self.log_p + weight * self.usual).argmax(1) == self.labels
        return found

    def conflict_accuracy(self, weight: float) -> float:
        """Return the accuracy on images that do not have what is usual for their class."""
        conflict = self.usual[np.arange(len(self.labels)), self.labels] == 0
        return float(self.right(weight)[conflict].mean())

    def worst_group_accuracy(self, weight: float) -> float:
        """Return the lowest accuracy of a group."""
        right, groups = self.right(weight), np.asarray(self.groups)
        return float(min(right[groups == group].mean() for group in set(self.groups)))


def attainable(run: RunFile, rundir: RunDirectory, biased_accuracy: float) -> dict[str, float]:
    """Return the accuracies of the oracle under the weakest prior with which it names biased images so well.

    The prior is chosen on the test images themselves, so this is more than any classifier could be asked for.
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
    """Return the lowest weight with which biased images are named so well; the best one where none is enough."""
    found = np.array([biased.right(weight).mean() for weight in WEIGHTS])
    enough = np.flatnonzero(found >= accuracy)
    return float(WEIGHTS[enough[0] if len(enough) else found.argmax()])


def answer(
    classifier: Classifier, images: LabelledSet, classes: Sequence[str], group_by: Sequence[str], dominant: Dominant
) -> Answers:
    """Return a classifier's answers to labelled images."""
    source = open_source(images.source)
    read = [(item, read_sample(source, item, "test")) for item in images.items]
    items = [item for item, sample in read if not isinstance(sample, Rejection)]
    pictures = [sample.image for _, sample in read if not isinstance(sample, Rejection)]
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
