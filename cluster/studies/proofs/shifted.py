"""The test images without the spurious correlation, on which the proofs score fine-tuned classifiers."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.phases.arms import test_sets, trained_ref
from cluster.phases.classifiers import Panel, ask
from cluster.phases.evaluate import Evaluation, LabelledSet, ask_set, attribute_names, joined, score_answers
from engine.evaluation.groups import Dominant, dominant_values
from engine.run.directory import RunDirectory
from engine.runfile.run import RunFile


@dataclass(frozen=True, kw_only=True)
class Shifted:
    """The shifted images, the attributes to group by, and the dominant values of each class in the training data."""

    images: LabelledSet
    group_by: Sequence[str]
    dominant: Dominant

    @classmethod
    def of(cls, run: RunFile, rundir: RunDirectory) -> "Shifted":
        """Return those of a run."""
        plan = rundir.plan()
        training = [item for item, _ in plan.of_split("train")]
        group_by = attribute_names(training, run.report.group_by or None)
        return cls(
            images=test_sets(run, plan)["shifted"], group_by=group_by, dominant=dominant_values(training, group_by)
        )

    def evaluate(self, run: RunFile, rundir: RunDirectory) -> Evaluation:
        """Score the arm `reinforced` of a run."""
        trained = trained_ref(run, rundir, "models/reinforced")
        (results,) = joined(ask(ask_set(Panel(refs=(trained,)), self.images), "evaluate"))
        return score_answers(results, trained.classes, self.group_by, self.dominant, {})
