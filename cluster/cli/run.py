"""The commands that do work: run, plan, generate, probe, reinforce."""

import argparse
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
from cluster.cli.report import add_report, report_lines

if TYPE_CHECKING:
    from engine.run.directory import RunDirectory


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    _add_run(commands)
    _add_plan(commands)
    _add_generate(commands)
    _add_retry(commands)
    _add_phases(commands)
    add_report(commands)


def _add_run(commands: Commands) -> None:
    parser = add_command(
        commands,
        "run",
        "do all phases; the same command resumes",
        "Plan, generate, probe, reinforce and report. What is done already is not done again: after a crash,\n"
        "a Ctrl-C or a lost machine the same command goes on where it stopped, and makes the same bytes as long as\n"
        "machines are of one kind and library versions stay.",
        "  counterforge run configs/wardrobe.yaml\n"
        "  counterforge run mine.yaml --out /data/runs/first --set stages.editor.num_inference_steps=30\n"
        "  counterforge run mine.yaml --address auto --out s3://bucket/runs/first",
    )
    add_run_file(parser)
    add_cluster(parser)
    parser.set_defaults(command=run_command)


def _add_plan(commands: Commands) -> None:
    parser = add_command(
        commands,
        "plan",
        "say what a run would do and cost; spends nothing",
        "List the sources, split and shard them, and estimate images, bytes, hours and cost. Loads no model,\n"
        "starts nothing, writes nothing. Hours are measured where the run directory has finished shards, else a guess.",
        "  counterforge plan configs/wardrobe.yaml\n  counterforge plan mine.yaml --set data.num_sources=1000",
    )
    add_run_file(parser)
    parser.set_defaults(command=plan_command)


def _add_generate(commands: Commands) -> None:
    parser = add_command(
        commands,
        "generate",
        "make the counterfactual images of a run",
        "Make every shard that is not there yet: read the sources, caption them, think up edits, make them, verify.\n"
        "Shards are WebDataset tars; one with a file in done/ is finished, and safe to read while others are made.",
        "  counterforge generate configs/wardrobe.yaml\n"
        "  counterforge generate mine.yaml --set stages.editor.placement.replicas=[2,8] --address auto",
    )
    add_run_file(parser)
    add_cluster(parser)
    parser.set_defaults(command=generate_command)


def _add_retry(commands: Commands) -> None:
    parser = add_command(
        commands,
        "retry",
        "make again what could not be processed",
        "Send the sources of quarantined samples through the stages once more, and merge what comes of it into their\n"
        "shards: a file that was missing, memory that was short. What was well stays byte for byte as it was. Probe,\n"
        "training and report are of the old shards then: `counterforge run` does them again.",
        "  counterforge status runs/wardrobe                       # names the reasons\n"
        "  counterforge retry runs/wardrobe\n"
        "  counterforge retry runs/wardrobe --reason unreadable_image",
    )
    add_run_directory(parser)
    parser.add_argument(
        "--reason", action="append", default=[], metavar="REASON", help="only these; may be given many times"
    )
    add_cluster(parser)
    parser.set_defaults(command=retry_command)


def _add_phases(commands: Commands) -> None:
    texts = {
        "probe": (
            "find the edits that make the classifier fail",
            "Ask the classifier of the run file about every sample and write weakness.json: by class, edit kind\n"
            "and edit value, how much an edit costs it, with intervals, less what the edit that changes nothing costs.",
        ),
        "reinforce": (
            "fine-tune the classifier and say whether it may ship",
            "Fine-tune the classifier on accepted counterfactuals mixed with real images, beside an arm with real\n"
            "images alone, with DeepSpeed under Ray Train; then score every arm. Models go to RUN/models. Resumes.\n"
            "`tensorboard --logdir RUN/tensorboard` shows the curves, also while it trains.",
        ),
    }
    settings = {"probe": "probe.min_drop=0.1", "reinforce": "reinforce.trained=lora"}
    for name, (summary, text) in texts.items():
        example = f"  counterforge {name} runs/wardrobe\n  counterforge {name} runs/wardrobe --set {settings[name]}"
        parser = add_command(commands, name, summary, text, example)
        add_run_directory(parser)
        add_overrides(parser)
        parser.set_defaults(command=phase_command, phase=name, address=None, autoscaling=False, follow=False)
        add_cluster(parser)
        if name == "reinforce":
            parser.add_argument(
                "--follow",
                action="store_true",
                help="start on the shards that are done while another process still generates; ends when that ends",
            )


def run_command(options: argparse.Namespace) -> int:
    """Do all phases."""
    from cluster.phases.pipeline import ALL_PHASES, open_run, run_phases

    run = load(options)
    rundir, plan = open_run(run, out_of(options, run))
    run_phases(ALL_PHASES, run, rundir, plan, session_of(options), live_console(), take_over=options.take_over)
    for line in report_lines(rundir):
        print(line)
    return 0


def plan_command(options: argparse.Namespace) -> int:
    """Print the plan."""
    from cluster.cli.plan_text import plan_lines

    run = load(options)
    for line in plan_lines(run, out_of(options, run)):
        print(line)
    return 0


def generate_command(options: argparse.Namespace) -> int:
    """Do the generate phase alone."""
    from cluster.monitor.progress import describe, snapshot
    from cluster.phases.pipeline import open_run, run_phases

    run = load(options)
    rundir, plan = open_run(run, out_of(options, run))
    run_phases(("generate",), run, rundir, plan, session_of(options), live_console(), take_over=options.take_over)
    print(describe(snapshot(rundir.read_markers(rundir.done()), plan.num_shards, plan.num_edited)))
    return 0


def retry_command(options: argparse.Namespace) -> int:
    """Make quarantined samples again, and say what became of them."""
    from cluster.phases.retry import retry_run

    rundir = open_directory(options.run)
    before, after = retry_run(rundir.run(), rundir, options.reason, session_of(options), options.take_over)
    if not before.sources:
        print("nothing is quarantined")
    for reason, count in before.reasons.items():
        left = after.reasons[reason]
        print(f"{reason}: {count} before, {left} now{' (the same again)' if left == count else ''}")
    return 0


def phase_command(options: argparse.Namespace) -> int:
    """Do one phase of a run directory, also where it was done before."""
    from cluster.phases.pipeline import run_phases

    rundir = open_directory(options.run)
    run, plan, session = rundir.change(options.overrides), rundir.plan(), session_of(options)
    if options.follow:
        from cluster.phases.follow import follow_run

        follow_run(run, rundir, plan, session, options.take_over)
    else:
        take_over = options.take_over
        run_phases((options.phase,), run, rundir, plan, session, live_console(), again=True, take_over=take_over)
    for line in weakness_lines(rundir) if options.phase == "probe" else verdict_lines(rundir):
        print(line)
    return 0


def weakness_lines(rundir: "RunDirectory") -> list[str]:
    """Return the worst weakness in words, and where the table is."""
    from engine.report.views.advice import weakest_cell
    from engine.run.directory import WEAKNESS

    weakest = weakest_cell({"weakness": rundir.read_json(WEAKNESS)})
    return [
        weakest or "no edit clearly costs more accuracy than probe.min_drop",
        f"table: {rundir.storage.name(WEAKNESS)}",
    ]


def verdict_lines(rundir: "RunDirectory") -> list[str]:
    """Return the verdict of the fine-tuning with its reasons."""
    from engine.run.directory import EVALUATION, REINFORCE

    if not rundir.exists(REINFORCE):
        return [f"scored, not trained: {rundir.storage.name(EVALUATION)}"]
    result: Any = rundir.read_json(REINFORCE)
    return [result["verdict"], *(f"  {reason}" for reason in result["reasons"])]
