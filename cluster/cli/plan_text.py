"""What `counterforge plan` prints: splits, classes, plugins, and the estimated cost of generating."""

from cluster.preflight.code import place_of
from engine.errors import EngineError
from engine.plan.estimate import Measured, describe, estimate_run, measure
from engine.plan.hash_store import HashStore
from engine.plan.plan import Plan, make_plan
from engine.plan.power import power_lines
from engine.rounds.allocation import shards_by_round
from engine.run.directory import RunDirectory
from engine.runfile.run import RoundsConfig, RunFile
from engine.runfile.stages import PluginConfig
from engine.selection.early import early_editor, split_pilot
from engine.storage.storage import Storage

MAX_CLASSES = 20
# By number; each later one follows a training.
ROUNDS = {
    1: "validation sources, edited as the run file says",
    2: "train sources, where the classifier is weak on validation edits",
}


def plan_lines(run: RunFile, out: str) -> tuple[list[str], Plan]:
    """Return the lines that describe the plan of a run, and the plan; writes nothing."""
    store = HashStore(Storage(out))
    plan = make_plan(run, store)
    lines = [f"plan {plan.digest[:12]} of {run.name!r}", "", *_splits(plan), ""]
    lines += _near_duplicates(plan, store)
    lines += _rounds(run.rounds, plan)
    lines += _early(run, plan)
    measured, note = _earlier(run, out)
    lines += describe(estimate_run(run, plan, measured))
    lines += power_lines(run, plan)
    lines.append(f"run directory {out}: {note}")
    for name, config in run.stages.items():
        if isinstance(config, PluginConfig):
            lines.append(f"plugin: stage {name!r} runs your code {config.target}, {place_of(config.target)}")
    if target := run.probe.callable:
        lines.append(f"plugin: the probe runs your code {target}, {place_of(target)}; a black box is not reinforced")
    return lines, plan


def _near_duplicates(plan: Plan, store: HashStore) -> list[str]:
    if plan.near_duplicates is None:
        return []
    first, *others = plan.near_duplicates.describe()
    took = f" (took {store.seconds:.0f} s; `run` looks once and keeps the hashes)" if store.seconds >= 1 else ""
    return [f"{first}{took}", *others, ""]


def _splits(plan: Plan) -> list[str]:
    every, edited = plan.counts(), plan.counts(edited=True)
    classes = plan.classes[:MAX_CLASSES]
    width = max(map(len, (*classes, "all classes")))
    heads = [f"{split:>12}{'edited':>9}" for split in every]
    lines = [f"{'class':<{width}}{''.join(heads)}"]
    for title, names in (*((name, (name,)) for name in classes), ("all classes", plan.classes)):
        cells = []
        for split in every:
            num, num_edited = (sum(found[split][name] for name in names) for found in (every, edited))
            cells.append(f"{num:>12,}{num_edited:>9,}")
        lines.append(f"{title:<{width}}{''.join(cells)}")
    if len(plan.classes) > MAX_CLASSES:
        lines.insert(-1, f"... and {len(plan.classes) - MAX_CLASSES} more classes")
    return lines


def _rounds(rounds: RoundsConfig, plan: Plan) -> list[str]:
    """Return a line for each round, if there are several."""
    if rounds.count == 1:
        return []
    lines = []
    for number, shards in enumerate(shards_by_round(plan, rounds), 1):
        sources = sum(len(plan.keys(index)) for index in shards)
        what = ROUNDS.get(number, "train sources, where it is weak after training on the rounds before")
        lines.append(f"round {number}     {sources:,} {what}, in {len(shards):,} shards")
    return [*lines, ""]


def _early(run: RunFile, plan: Plan) -> list[str]:
    """Return a line on the calibration shards of early rejection, if it is on."""
    found = early_editor(run)
    if found is None:
        return []
    name, _, early = found
    pilots = [split_pilot(run, shards) for shards in shards_by_round(plan, run.rounds)]
    count, others = sum(len(pilot) for pilot, _ in pilots), sum(len(rest) for _, rest in pilots)
    line = (
        f"pilot       {count:,} shards are drawn to the end; by their scores {name!r} drops edits of {others:,} others"
    )
    if not others:
        line += f": none, lower stages.{name}.early_rejection.pilot_shards (it is {early.pilot_shards})"
    return [line, ""]


def _earlier(run: RunFile, out: str) -> tuple[Measured | None, str]:
    """Return the times that an earlier run in the same directory measured, and a note on its progress."""
    try:
        rundir = RunDirectory.open(out)
    except EngineError:
        return None, "not there yet"
    markers = rundir.markers()
    return measure(run, markers), f"{len(markers)} of {rundir.info.num_shards} shards are done"
