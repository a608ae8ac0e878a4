"""The command `select`: apply other verifier thresholds to finished images."""

import argparse
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.cli.options import Commands, absolute, add_command, add_overrides, add_run_directory, open_directory

if TYPE_CHECKING:
    from engine.run.directory import RunDirectory
    from engine.runfile.run import RunFile

DEFAULT_PRECISION = 0.95
NUM_PROGRESS_LINES = 6


def add_commands(commands: Commands) -> None:
    """Add the command of this module."""
    parser = add_command(commands, "select", select)
    add_run_directory(parser)
    add_overrides(parser, "THRESHOLD=VALUE", "a threshold of the verifier, such as min_image=0.6; repeatable")
    parser.add_argument("--out", metavar="DIR", help="new run directory or s3://, gs:// URI for the result")
    parser.add_argument("--dry-run", action="store_true", help="only show what would change")
    parser.add_argument("--calibrate", metavar="CSV", type=Path, help="propose thresholds from labels good and bad")
    parser.add_argument(
        "--precision",
        type=float,
        metavar="SHARE",
        help=f"with --calibrate: share of accepted edits that must be good (default: {DEFAULT_PRECISION})",
    )


def select(options: argparse.Namespace) -> int:
    """Apply other verifier thresholds to finished images, without a GPU.

    The verifier's scores of every edit are stored. This command reads them, shows what other thresholds would
    accept, and with --out writes the result. No model is loaded.

    The result is a complete run directory: run.yaml with the new thresholds, the plan digest that follows from them,
    accepted samples in shards/, rejected ones in rejected/, new markers. RUN itself is only read. If RUN kept all
    rejected pixels, the bytes are those that `generate` makes with these thresholds. If not (shards.keep_rejected),
    an edit that was rejected before stays rejected as pixels_not_kept, and is counted; so is an edit that was stopped
    early and never scored (stages.editor.early_rejection). The same command resumes an interrupted selection; shards
    that RUN has not made yet are added by a later call, or by `generate`.

    --calibrate proposes thresholds from labels such as those of `counterforge show RUN --label`, and writes nothing:
    the file has the columns key and label, good or bad. About 200 rows are enough.

    Examples:
      counterforge select runs/wardrobe                                      # what each threshold rejects
      counterforge select runs/wardrobe --set min_image=0.6 --dry-run        # what another one would reject
      counterforge select runs/wardrobe --set min_image=0.6 --out runs/strict
      counterforge select runs/wardrobe --calibrate labels.csv --precision 0.9
    """
    from cluster.cli.select_text import calibration_lines, change_lines
    from engine.selection.selection import change_thresholds, check_verdicts, read_scored, thresholds_of

    _check_options(options)
    rundir = open_directory(options.run)
    before = thresholds_of(rundir.run())
    run = change_thresholds(rundir, options.overrides)
    after = thresholds_of(run)
    candidates = read_scored(rundir)
    check_verdicts(candidates, before)
    if options.calibrate is not None:
        precision = DEFAULT_PRECISION if options.precision is None else options.precision
        for line in calibration_lines(str(rundir.storage), candidates, before, options.calibrate, precision):
            print(line)
        return 0
    print(f"{rundir.info.name} in {rundir.storage}: {len(rundir.done())} of {rundir.info.num_shards} shards are done")
    print(*change_lines(candidates, before, after), sep="\n")
    if options.out is not None and not options.dry_run:
        for line in _write_selection(rundir, run, options.out):
            print(line, flush=True)
    return 0


def _write_selection(rundir: "RunDirectory", run: "RunFile", out: str) -> Iterator[str]:
    """Write every finished shard under the new thresholds; yield progress, counts and the next command."""
    from engine.selection.repartition import open_selection, select_shard
    from engine.selection.selection import PIXELS_NOT_KEPT
    from engine.shards.marker import add_counts

    selected = open_selection(rundir, run, absolute(out))
    indexes = rundir.done()
    every = ceil(len(indexes) / NUM_PROGRESS_LINES)
    for count, index in enumerate(indexes, start=1):
        select_shard(rundir, selected, run, index)
        if count % every == 0 or count == len(indexes):
            yield f"wrote {count}/{len(indexes)} shards to {selected.storage}"
    counts = add_counts(selected.markers())
    yield f"accepted {counts.accepted:,} of {counts.candidates:,} candidates; {rundir.storage} is as it was"
    lost = counts.rejected.get(PIXELS_NOT_KEPT, 0)
    if lost:
        yield (
            f"{lost:,} edits pass but have no pixels ({PIXELS_NOT_KEPT}): delete the markers of their shards in "
            f"{selected.storage.name('done')} and `counterforge generate` makes these shards again, at full cost"
        )
    yield "next:"
    if selected.pending():
        yield f"  counterforge generate {selected.storage.name('run.yaml')} --out {out}    # makes the missing shards"
    yield f"  counterforge probe {out}"


def _check_options(options: argparse.Namespace) -> None:
    from engine.errors import SelectionError

    if options.calibrate is not None:
        if options.overrides or options.out:
            raise SelectionError(
                "--calibrate proposes thresholds and writes nothing: leave out --set and --out, then run the command "
                "that it prints"
            )
        if options.precision is not None and not 0 < options.precision < 1:
            raise SelectionError(f"--precision {options.precision:g}: expected a share between 0 and 1, such as 0.95")
    elif options.precision is not None:
        raise SelectionError("--precision goes with --calibrate labels.csv: give both or neither")
    elif options.overrides and not options.out and not options.dry_run:
        raise SelectionError(
            "where should the result go? Give --out with a new run directory (RUN stays as it is), or --dry-run to "
            "only see what would change"
        )
    elif options.out and not options.overrides:
        raise SelectionError("--out needs thresholds to write: give --set, such as --set min_image=0.6")
