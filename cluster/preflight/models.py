"""Checks of the models that the stages load."""

from collections.abc import Iterator

from engine.errors import UserError
from engine.plan.plan import Plan
from engine.runfile.run import RunFile


def check_stage_models(run: RunFile, plan: Plan) -> Iterator[str | UserError]:
    """Yield what is wrong with the models of the stages."""
    yield from ()
