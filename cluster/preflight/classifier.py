"""Checks of the classifier under test and of those that are asked about the same pictures, without their weights."""

from collections.abc import Iterator
from pathlib import Path

from actors.classifier.settings import checkpoint_remarks, output_remarks
from engine.errors import ModelError, UserError
from engine.plan.plan import Plan
from engine.runfile.run import RunFile


def check_classifier(run: RunFile, plan: Plan) -> Iterator[str | UserError]:
    """Yield why a classifier cannot answer in the run's classes, and which class its outputs are taken for by order."""
    try:
        yield from output_remarks(run.probe, plan.classes, run.offline)
    except ModelError as error:
        yield ModelError(f"probe.model: {error}")
    for place, model in enumerate(run.probe.transfer):
        try:
            yield from checkpoint_remarks(model, plan.classes, run.offline)
        except ModelError as error:
            yield ModelError(f"probe.transfer.{place}: {error}")
    for path in run.probe.files:
        if not Path(path).exists():
            yield ModelError(f"probe.files: there is no {path}: name files that decide what probe.callable answers")
