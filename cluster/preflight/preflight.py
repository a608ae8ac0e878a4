"""Run every check of a run, and collect what is wrong: at `plan`, and again before the first shard."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from textwrap import wrap

from cluster.preflight.classifier import check_classifier
from cluster.preflight.data import check_cells, check_splits, check_test_data, check_training_data
from cluster.preflight.machine import check_devices, check_machine, check_out, check_probe_device
from cluster.preflight.models import check_probe_models, check_stage_models
from cluster.preflight.training import check_deepspeed, check_masks
from cluster.preflight.words import check_class_words, check_grounds
from engine.errors import PlacementError, PreflightError, UserError
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
    ("generate", check_class_words),
    ("generate", check_grounds),
    ("generate", check_machine),
    ("probe", check_cells),
    ("probe", check_probe_models),
    ("probe", check_probe_device),
    ("probe", check_classifier),
    ("reinforce", check_splits),
    ("reinforce", check_test_data),
    ("reinforce", check_deepspeed),
    ("reinforce", check_masks),
)
ALL = ("generate", "probe", "reinforce")


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What the checks found: problems, with which the run would fail, and warnings."""

    problems: Sequence[str]
    warnings: Sequence[str]

    def lines(self, width: int | None = None) -> Iterator[str]:
        """Yield a section for each of the two that has an entry, a line each, broken where a terminal's width says."""
        for title, remarks in (("warnings", self.warnings), ("problems", self.problems)):
            if remarks:
                yield from ("", title)
                yield from (f"  {_broken(remark, width)}" for remark in remarks)


def preflight(
    run: RunFile, plan: Plan, phases: Sequence[str] = ALL, *, out: str | None = None, is_here: bool | None = True
) -> Preflight:
    """Return what the checks of these phases find; writes nothing and loads no weights.

    `out` is the run directory that generating would make. A PlacementError is about this machine: a problem where the
    run is made here, a warning where that is not known (None), and nothing where it is made on a cluster.
    """
    checks: list[Callable[[], Iterable[Remark]]] = [
        partial(check, run, plan) for phase, check in CHECKS if phase in phases
    ]
    if "generate" in phases and out is not None:
        checks.append(partial(check_out, run, plan, out))
    checks.append(partial(check_devices, run, phases))
    problems: dict[str, None] = {}
    warnings: dict[str, None] = {}
    for remark in (remark for check in checks for remark in _remarks(check)):
        for line in str(remark).splitlines():
            # Two checks may see the same: the first names the field.
            if any(known.endswith(line) for known in problems):
                continue
            if not isinstance(remark, PlacementError) or is_here:
                (problems if isinstance(remark, UserError) else warnings)[line] = None
            elif is_here is None:
                warnings[f"if the run is made on this machine: {line}"] = None
    return Preflight(problems=list(problems), warnings=list(warnings))


def refuse_problems(
    run: RunFile, plan: Plan, phases: Sequence[str], *, out: str | None = None, is_here: bool = True
) -> None:
    """Raise PreflightError with every problem of these phases, a line each; log the warnings."""
    found = preflight(run, plan, phases, out=out, is_here=is_here)
    for warning in found.warnings:
        LOG.warning("%s", warning)
    if found.problems:
        first, *others = found.problems
        lines = [f"{len(found.problems)} problems, nothing was started:", *(f"  {each}" for each in found.problems)]
        raise PreflightError("\n".join(lines) if others else first)


def refuse_change(before: RunFile, after: RunFile, plan: Plan, phase: str, *, is_here: bool = True) -> None:
    """Raise PreflightError with every problem of the phase, and with those that a change makes for phases to come."""
    refuse_problems(after, plan, (phase,), is_here=is_here)
    if after == before:
        return
    later = ("probe", "reinforce")
    known = preflight(before, plan, later, is_here=is_here).problems
    if new := [problem for problem in preflight(after, plan, later, is_here=is_here).problems if problem not in known]:
        raise PreflightError("\n".join(new))


def _broken(remark: str, width: int | None) -> str:
    if width is None:
        return remark
    return "\n    ".join(wrap(remark, width - 4, break_long_words=False, break_on_hyphens=False))


def _remarks(check: Callable[[], Iterable[Remark]]) -> Iterator[Remark]:
    try:
        yield from check()
    except UserError as error:
        yield error
