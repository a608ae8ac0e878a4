"""Checks of the classifier."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from engine.errors import ModelError, UserError
from engine.plan.plan import Plan
from engine.runfile.run import RunFile


def check_classifier(run: RunFile, plan: Plan) -> Iterator[str | UserError]:
    """Yield what is wrong with the classifier."""
    from actors.classifier.outputs import restriction

    with suppress(ModelError):  # nothing is downloaded for a remark
        if (remark := restriction(run.probe.model, len(plan.classes), offline=True)) is not None:
            yield remark
    for path in run.probe.files:
        if not Path(path).exists():
            yield ModelError(f"probe.files: there is no {path}: name files that decide what probe.callable answers")
