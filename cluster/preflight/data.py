"""Checks of the data: enough images and classes, names that are one, test images, groups."""

from collections.abc import Iterator

from cluster.phases.arms import test_sets
from cluster.phases.evaluate import attribute_names
from engine.errors import UserError
from engine.names import same_names
from engine.plan.plan import Plan
from engine.runfile.run import RunFile
from engine.wording import name_some


def check_training_data(run: RunFile, plan: Plan) -> Iterator[str | UserError]:
    """Yield what is wrong with the images that get edits."""
    for names in same_names(plan.classes):
        yield f"data.train: {name_some(names)} differ only in case or separators: are they one class?"


def check_test_data(run: RunFile, plan: Plan) -> Iterator[str | UserError]:
    """Yield where the evaluation would fail hours later: no test image, an unknown attribute."""
    test_sets(run, plan)
    attribute_names([item for item, _ in plan.of_split("train")], run.report.group_by or None)
    yield from ()
