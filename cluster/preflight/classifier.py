"""Checks of the classifier."""

from collections.abc import Iterator

from engine.errors import UserError
from engine.plan.plan import Plan
from engine.runfile.run import RunFile


def check_classifier(run: RunFile, plan: Plan) -> Iterator[str | UserError]:
    """Yield what is wrong with the classifier."""
    yield from ()
