"""Run every check of a run, and collect what is wrong: at `plan`, and again before the first shard."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from cluster.preflight.classifier import check_classifier
from cluster.preflight.data import check_test_data, check_training_data
from cluster.preflight.machine import check_machine
from cluster.preflight.models import check_stage_models
from cluster.preflight.training import check_deepspeed
from engine.errors import PreflightError, UserError
from engine.plan.plan import Plan
from engine.runfile.run import RunFile

LOG = logging.getLogger(__name__)
# A check yields warnings, and raises a UserError, or yields one, for each problem.
Remark = str | UserError
Check = Callable[[RunFile, Plan], Iterable[Remark]]
# Each check belongs to the phase that would fail.
CHECKS: Sequence[tuple[str, Check]] = (
    ("generate", check_training_data),
    ("generate", check_stage_models),
    ("generate", check_machine),
    ("probe", check_classifier),
    ("reinforce", check_test_data),
    ("reinforce", check_deepspeed),
)


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What the checks found: problems, with which the run would fail, and warnings."""

    problems: Sequence[str]
    warnings: Sequence[str]

    def lines(self) -> Iterator[str]:
        """Yield a section for each of the two that has an entry."""
        for title, remarks in (("problems", self.problems), ("warnings", self.warnings)):
            if remarks:
                yield title
                yield from (f"  {remark}" for remark in remarks)


def preflight(run: RunFile, plan: Plan, phases: Sequence[str] | None = None) -> Preflight:
    """Return what the checks of these phases find, of all by default; writes nothing and loads no weights."""
    checks = [check for phase, check in CHECKS if phases is None or phase in phases]
    remarks = [remark for check in checks for remark in _remarks(check, run, plan)]
    problems = [line for remark in remarks if isinstance(remark, UserError) for line in str(remark).splitlines()]
    return Preflight(
        problems=list(dict.fromkeys(problems)),
        warnings=list(dict.fromkeys(remark for remark in remarks if isinstance(remark, str))),
    )


def refuse_problems(run: RunFile, plan: Plan, phases: Sequence[str]) -> None:
    """Raise PreflightError with every problem of these phases, a line each; log the warnings."""
    found = preflight(run, plan, phases)
    for warning in found.warnings:
        LOG.warning("%s", warning)
    if found.problems:
        raise PreflightError("\n".join(found.problems))


def _remarks(check: Check, run: RunFile, plan: Plan) -> Iterator[Remark]:
    try:
        yield from check(run, plan)
    except UserError as error:
        yield error
