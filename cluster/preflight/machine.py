"""Checks of the machine: devices for every phase, code of the user's that can be imported."""

from collections.abc import Iterator

from engine.errors import UserError
from engine.plan.plan import Plan
from engine.runfile.run import RunFile


def check_machine(run: RunFile, plan: Plan) -> Iterator[str | UserError]:
    """Yield what this machine cannot do."""
    yield from ()
