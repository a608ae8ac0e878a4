"""The command that breaks runs on purpose: chaos."""

import argparse
from pathlib import Path

from cluster.cli.options import Commands, add_command, add_run_file, load
from cluster.studies.chaos.faults import FAULTS

FOLDER = Path("build/chaos")
NUM_KILLS = 20
TEXT = """\
Generate the shards of a run file once undisturbed, then again and again under faults, on this machine; then compare
every sample and every byte. Prints a table and writes build/figures/chaos.json, of some faults chaos-driver.json and
the like. Exit code 1 where a sample is lost or doubled, a byte differs or a file is left over.

{faults}

Each run takes some strikes and is then left to end. A study that was cut off goes on with its next run. Small runs say
as much as large ones: ten shards are enough."""


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    parser = add_command(
        commands,
        "chaos",
        "kill drivers, workers and nodes of a run, and look whether anything is lost",
        TEXT.format(faults="\n".join(f"  {fault:<8} {what}" for fault, what in FAULTS.items())),
        "  counterforge chaos configs/wardrobe.yaml --set data.num_sources=96 --set shards.sources_per_shard=8\n"
        "  counterforge chaos mine.yaml --faults driver actor --kills 100",
    )
    add_run_file(parser, out=False)
    parser.add_argument(
        "--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS), metavar="FAULT", help="some (default: all)"
    )
    parser.add_argument(
        "--kills",
        type=int,
        default=NUM_KILLS,
        metavar="N",
        help=f"drivers to kill, and as many workers; a tenth as many nodes (default: {NUM_KILLS})",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other moments (default: 0)")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help=f"where runs go (default: {FOLDER})")
    parser.set_defaults(command=chaos_command)


def chaos_command(options: argparse.Namespace) -> int:
    """Run the study, print its figures and write them."""
    from cluster.studies.chaos.figures import chaos_figures
    from cluster.studies.chaos.study import Study, calm_seconds
    from engine.errors import RunFileError
    from engine.figures.figures import describe, machine, table, write_figures

    if options.kills < 1:
        raise RunFileError(f"--kills {options.kills}: expected 1 or more, such as {NUM_KILLS}")
    folder = options.out.resolve()
    study = Study(run=load(options), folder=folder, faults=options.faults, num_kills=options.kills, seed=options.seed)
    trials = list(study.trials())
    figures = list(chaos_figures(trials, calm_seconds(folder)))
    # A study of some faults is one of its own: its figures do not take the place of the others'.
    name = "-".join(["chaos", *(options.faults if set(options.faults) != set(FAULTS) else [])])
    path = write_figures(name, figures)
    print(f"{table(figures)}\n\n{describe(machine())}\n{path}")
    for trial in trials:
        for example in trial.examples:
            print(f"{trial.fault}: {example}")
    return 1 if any(figure.met is False and figure.target == 0 for figure in figures) else 0
