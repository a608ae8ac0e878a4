"""The command `chaos`: inject faults into runs and compare their results."""

import argparse
from pathlib import Path

from cluster.cli.options import Commands, add_command, add_run_file, load
from cluster.studies.chaos.faults import FAULTS

FOLDER = Path("build/chaos")
NUM_KILLS = 20


def add_commands(commands: Commands) -> None:
    """Add the command of this module."""
    parser = add_command(commands, "chaos", chaos)
    faults = "\n".join(f"  {fault:<8} {description}" for fault, description in FAULTS.items())
    parser.description = f"{parser.description}\n\n{faults}"
    add_run_file(parser, out=False)
    parser.add_argument(
        "--faults",
        nargs="+",
        choices=list(FAULTS),
        default=list(FAULTS),
        metavar="FAULT",
        help="faults to inject (default: all)",
    )
    parser.add_argument(
        "--kills",
        type=int,
        default=NUM_KILLS,
        metavar="N",
        help=f"drivers to kill, and as many workers; a tenth as many nodes (default: {NUM_KILLS})",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the times of faults (default: 0)")
    parser.add_argument(
        "--out", type=Path, default=FOLDER, metavar="DIR", help=f"folder of the runs (default: {FOLDER})"
    )


def chaos(options: argparse.Namespace) -> int:
    """Kill drivers, workers and nodes of a run, and check that nothing is lost.

    Generate the shards of a run file once without faults (the baseline), then repeatedly with faults, on this
    machine; compare every sample and every byte with the baseline. Ten shards are enough. Prints a table and writes
    build/figures/chaos.json (with --faults: chaos-driver.json and the like). Exit code 1 where a sample is lost or
    doubled, a byte differs or a file is left over.

    Each run gets several faults and is then left to end. A study that was interrupted continues with its next run.

    Examples:
      counterforge chaos configs/wardrobe.yaml --set data.num_sources=96 --set shards.sources_per_shard=8
      counterforge chaos mine.yaml --faults driver actor --kills 100
    """
    from cluster.studies.chaos.figures import chaos_figures
    from cluster.studies.chaos.study import Study, baseline_seconds
    from engine.errors import RunFileError
    from engine.figures.figures import describe, machine, table, write_figures

    if options.kills < 1:
        raise RunFileError(f"--kills {options.kills}: expected 1 or more, such as {NUM_KILLS}")
    folder = options.out.resolve()
    study = Study(run=load(options), folder=folder, faults=options.faults, num_kills=options.kills, seed=options.seed)
    trials = list(study.trials())
    figures = list(chaos_figures(trials, baseline_seconds(folder)))
    # The figures of a study of some faults do not overwrite those of all faults.
    name = "-".join(["chaos", *(options.faults if set(options.faults) != set(FAULTS) else [])])
    path = write_figures(name, figures)
    print(f"{table(figures)}\n\n{describe(machine())}\n{path}")
    for trial in trials:
        for example in trial.examples:
            print(f"{trial.fault}: {example}")
    return 1 if any(figure.met is False and figure.target == 0 for figure in figures) else 0
