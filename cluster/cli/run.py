"""The commands that compute: run, plan, generate, retry, probe, reinforce."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from cluster.cli.options import (
    Commands,
    add_cluster,
    add_command,
    add_overrides,
    add_run_directory,
    add_run_file,
    live_console,
    load,
    open_directory,
    out_of,
    session_of,
)
from cluster.cli.report import report_lines

if TYPE_CHECKING:
    from engine.plan.plan import Plan
    from engine.run.directory import RunDirectory


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    for name, command in (("run", run_all), ("plan", plan), ("generate", generate)):
        parser = add_command(commands, name, command)
        add_run_file(parser)
        if command is not plan:
            add_cluster(parser)
    parser = add_command(commands, "retry", retry)
    add_run_directory(parser)
    parser.add_argument(
        "--reason", action="append", default=[], metavar="REASON", help="retry this reason only; repeatable"
    )
    add_cluster(parser)
    for name, command in (("probe", probe), ("reinforce", reinforce)):
        parser = add_command(commands, name, command)
        parser.set_defaults(follow=False)
        add_run_directory(parser)
        add_overrides(parser)
        add_cluster(parser)
    parser.add_argument(
        "--follow",
        action="store_true",
        help="start on the shards that are done while another process still generates; ends when that ends",
    )


def run_all(options: argparse.Namespace) -> int:
    """Run all phases; the same command resumes.

    Plan, generate, probe, reinforce and report. Results that are there are kept: after a crash, a Ctrl-C or a lost
    machine the same command continues where it stopped, and makes the same bytes. Writes a run directory.

    Examples:
      counterforge run configs/wardrobe.yaml
      counterforge run mine.yaml --out /data/runs/first --set stages.editor.num_inference_steps=30
      counterforge run mine.yaml --address auto --out s3://bucket/runs/first
    """
    from cluster.phases.pipeline import ALL_PHASES

    rundir, _ = _run_file(options, ALL_PHASES)
    print(*report_lines(rundir), sep="\n")
    return 0


def plan(options: argparse.Namespace) -> int:
    """Print what a run would do and cost, and what would make it fail.

    List the sources, split and shard them, and estimate images, bytes, hours and cost. Then check data, models, code
    of yours and machine for every phase; a problem gives exit code 2. Loads no weights, starts nothing, writes
    nothing. Hours are measured where the run directory has finished shards, otherwise guessed.

    Examples:
      counterforge plan configs/wardrobe.yaml
      counterforge plan mine.yaml --set data.num_sources=1000
    """
    from cluster.cli.plan_text import plan_lines
    from cluster.preflight.preflight import preflight

    run = load(options)
    out = out_of(options, run)
    lines, planned = plan_lines(run, out)
    found = preflight(run, planned, out=out, is_here=None)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(*lines, *found.lines(width), sep="\n")
    return 2 if found.problems else 0


def generate(options: argparse.Namespace) -> int:
    """Generate the counterfactual images of a run.

    Make every shard that is not done yet: read the sources, caption them, propose edits, draw them, verify them.
    Shards are WebDataset tars in RUN/shards; one with a marker in RUN/done is complete and safe to read while others
    are made.

    Examples:
      counterforge generate configs/wardrobe.yaml
      counterforge generate mine.yaml --set stages.editor.placement.replicas=[2,8] --address auto
    """
    from cluster.monitor.progress import describe, snapshot

    rundir, planned = _run_file(options, ("generate",))
    print(describe(snapshot(rundir.read_markers(rundir.done()), planned.num_shards, planned.num_edited)))
    return 0


def retry(options: argparse.Namespace) -> int:
    """Process quarantined samples again.

    Send the sources of quarantined samples through the stages again, for instance after a missing file or too little
    memory, and merge the results into their shards. Samples that succeeded before keep their bytes. Probe, training
    and report are then out of date: `counterforge run` repeats them.

    Examples:
      counterforge status runs/wardrobe                       # lists the reasons
      counterforge retry runs/wardrobe
      counterforge retry runs/wardrobe --reason unreadable_image
    """
    from cluster.phases.retry import retry_run

    rundir = open_directory(options.run)
    before, after = retry_run(rundir.run(), rundir, options.reason, session_of(options), options.take_over)
    if not before.sources:
        print("nothing is quarantined")
    for reason, count in before.reasons.items():
        left = after.reasons[reason]
        print(f"{reason}: {count} before, {left} now{' (the same again)' if left == count else ''}")
    return 0


def probe(options: argparse.Namespace) -> int:
    """Measure which edits make the classifier fail.

    Predict every sample with the classifier of the run file and write RUN/weakness.json: the accuracy drop by class,
    edit kind and edit value, with intervals, corrected by the drop that the placebo edit causes.

    Examples:
      counterforge probe runs/wardrobe
      counterforge probe runs/wardrobe --set probe.min_drop=0.1
    """
    from engine.report.views.advice import weakest_cell
    from engine.report.views.no_finding import no_weakness
    from engine.run.directory import WEAKNESS

    rundir = _run_phase("probe", options)
    weakness: Any = rundir.read_json(WEAKNESS)
    print(weakest_cell(weakness) or no_weakness(weakness), *weakness.get("output_notes", ()), sep="\n")
    print(f"table: {rundir.storage.name(WEAKNESS)}")
    return 0


def reinforce(options: argparse.Namespace) -> int:
    """Fine-tune the classifier and decide whether the result may ship.

    Fine-tune on accepted counterfactuals mixed with real images, and an arm on real images alone, with DeepSpeed
    under Ray Train; then score every arm. Writes RUN/models, RUN/reinforce.json and RUN/evaluation.json. Resumes.
    `tensorboard --logdir RUN/tensorboard` shows the curves, also during training.

    Examples:
      counterforge reinforce runs/wardrobe
      counterforge reinforce runs/wardrobe --set reinforce.trained=lora
    """
    from engine.run.directory import EVALUATION, REINFORCE

    rundir = _run_phase("reinforce", options)
    if rundir.exists(REINFORCE):
        result: Any = rundir.read_json(REINFORCE)
        print(result["verdict"], *(f"  {reason}" for reason in result["reasons"]), sep="\n")
    else:
        print(f"scored, not trained: {rundir.storage.name(EVALUATION)}")
    return 0


def _run_file(options: argparse.Namespace, phases: Sequence[str]) -> "tuple[RunDirectory, Plan]":
    """Run phases of a run file in its run directory, a new one or an older; return it with its plan."""
    from cluster.phases.pipeline import open_run, run_phases
    from cluster.preflight.preflight import refuse_problems

    run = load(options)
    out = out_of(options, run)
    check = partial(refuse_problems, phases=phases, out=out, is_here=options.address is None)
    rundir, planned = open_run(run, out, check)
    run_phases(phases, run, rundir, planned, session_of(options), live_console(), take_over=options.take_over)
    return rundir, planned


def _run_phase(name: str, options: argparse.Namespace) -> "RunDirectory":
    """Run one phase of a run directory, also if it is done."""
    from cluster.phases.follow import follow_run
    from cluster.phases.pipeline import run_phases
    from cluster.preflight.preflight import refuse_change

    rundir, session, take_over = open_directory(options.run), session_of(options), options.take_over
    planned = rundir.plan()
    check = partial(refuse_change, plan=planned, phase=name, is_here=options.address is None)
    run = rundir.change(options.overrides, check)
    if options.follow:
        follow_run(run, rundir, planned, session, take_over)
    else:
        run_phases((name,), run, rundir, planned, session, live_console(), again=True, take_over=take_over)
    return rundir
