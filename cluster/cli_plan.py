"""What `counterforge plan` prints: splits, classes, plugins, and the estimate of what generating will take."""

from engine.errors import UserError
from engine.estimate import Measured, describe, estimate_run, measure
from engine.plan import Plan, make_plan
from engine.rundir import RunDirectory
from engine.runfile import RunFile
from engine.stages import PluginConfig

MAX_CLASSES = 20


def plan_lines(run: RunFile, out: str) -> list[str]:
    """Return the plan of a run as lines for a person; writes nothing."""
    plan = make_plan(run)
    lines = [f"plan {plan.digest[:12]} of {run.name!r}", "", *_splits(plan), ""]
    measured, note = _earlier(run, out)
    lines += describe(estimate_run(run, plan, measured))
    lines.append(f"run directory {out}: {note}")
    for name, config in run.stages.items():
        if isinstance(config, PluginConfig):
            lines.append(f"plugin: stage {name!r} runs your code {config.target}")
    if run.probe.callable:
        lines.append(f"plugin: the probe runs your code {run.probe.callable}; a black box is not reinforced")
    return lines


def _splits(plan: Plan) -> list[str]:
    every, edited = plan.counts(), plan.counts(edited=True)
    classes = plan.classes[:MAX_CLASSES]
    width = max(map(len, (*classes, "all classes")))
    heads = [f"{split:>12}{'edited':>9}" for split in every]
    lines = [f"{'class':<{width}}{''.join(heads)}"]
    for name in (*classes, None):
        cells = [
            f"{(sum(every[split].values()) if name is None else every[split][name]):>12,}"
            f"{(sum(edited[split].values()) if name is None else edited[split][name]):>9,}"
            for split in every
        ]
        lines.append(f"{name or 'all classes':<{width}}{''.join(cells)}")
    if len(plan.classes) > MAX_CLASSES:
        lines.insert(-1, f"... and {len(plan.classes) - MAX_CLASSES} more classes")
    return lines


def _earlier(run: RunFile, out: str) -> tuple[Measured | None, str]:
    """Return what an earlier run in the same directory measured, and what there is to say of it."""
    try:
        rundir = RunDirectory.open(out)
    except UserError:
        return None, "not there yet"
    markers = rundir.markers()
    return measure(run, markers), f"{len(markers)} of {rundir.info.num_shards} shards are done"
