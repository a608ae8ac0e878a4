"""The commands that only look at a run or a machine: status, verify, show, schema, doctor."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.cli.options import (
    Commands,
    add_command,
    add_json,
    add_run_directory,
    open_directory,
    print_json,
    write_file,
)

if TYPE_CHECKING:
    from engine.run.directory import RunDirectory

CONTACT_SHEET, LABEL_PAGE = "contact_sheet.png", "label.html"
NUM_LABELS = 200


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    parser = add_command(commands, "status", status)
    add_run_directory(parser)
    add_json(parser)
    parser = add_command(commands, "verify", verify)
    add_run_directory(parser)
    parser.add_argument("--redo", action="store_true", help="delete the markers of damaged shards")
    parser = add_command(commands, "show", show)
    parser.add_argument("what", metavar="RUN|SHARD.tar", help="a run directory, or one shard")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="default: contact_sheet.png in RUN, or beside the shard; label.html in RUN with --label",
    )
    parser.add_argument("--rows", type=int, default=12, metavar="N", help="sources to show (default: 12)")
    parser.add_argument("--label", action="store_true", help="write a page to label edits as good or bad")
    parser.add_argument("--num", type=int, metavar="N", help=f"with --label: edits to label (default: {NUM_LABELS})")
    parser = add_command(commands, "schema", schema)
    parser.add_argument(
        "--of", choices=("run", "summary"), default="run", help="run: run files (default); summary: report/summary.json"
    )
    add_json(add_command(commands, "doctor", doctor))


def status(options: argparse.Namespace) -> int:
    """Print the progress of a run, from its markers, and a look into a few shards.

    Sum the counts in the markers of finished shards; list who holds the run's leases and which shards were begun more
    than once. Of a few finished shards also the share of captions that name their class, the share of each kind of
    edit that was accepted, and the size of edits beside their sources, with warnings. Safe at any time, from any
    machine that can read them. Writes nothing.

    Examples:
      counterforge status runs/wardrobe
      counterforge status s3://bucket/runs/first --json
    """
    from cluster.monitor.progress import describe, snapshot
    from engine.report.glance import look_into
    from engine.run.attempts import at_work
    from engine.run.directory import PHASE_LOG
    from engine.run.lease import holders
    from engine.wording import duration

    rundir = open_directory(options.run)
    state = snapshot(rundir.read_markers(rundir.done()), rundir.info.num_shards, rundir.plan().num_edited)
    phases = rundir.read_json(PHASE_LOG) if rundir.exists(PHASE_LOG) else {}
    seconds = phases.get("seconds", {}) if isinstance(phases, dict) else {}
    holder_of = holders(rundir.storage)
    repeated = [work for work in at_work(rundir.storage) if work.begun > 1]
    seen = look_into(rundir)
    if options.json:
        held = {phase: asdict(holder) for phase, holder in holder_of.items()}
        more = {"plan": rundir.info.digest, "phases": seconds, "held": held, "begun_again": [*map(asdict, repeated)]}
        print_json({**asdict(state), **more, "seen": seen and asdict(seen)})
        return 0
    print(f"{rundir.info.name} in {rundir.storage}, plan {rundir.info.digest[:12]}")
    print(describe(state))
    for phase, holder in holder_of.items():
        print(f"  {phase}: held by {holder.describe()}")
    for work in repeated:
        print(f"  {work.where}: shard {work.shard} begun {work.begun} times: a worker ended, or the stage raised")
    for title, reasons in (("rejected", state.counts.rejected), ("not processed", state.counts.quarantined)):
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1]):
            print(f"  {title}: {reason} {count}")
    for stage, mean in state.seconds.items():
        print(f"  {stage}: {duration(mean)} a shard")
    if seen is not None:
        print(*seen.lines(), sep="\n")
    if isinstance(seconds, dict) and seconds:
        print("phases: " + ", ".join(f"{name} {duration(float(str(spent)))}" for name, spent in seconds.items()))
    return 0


def verify(options: argparse.Namespace) -> int:
    """Compare every file of a run with the size and hash in its marker.

    Read every file that a marker names; compare size and BLAKE3. Prints each difference; exit code 1 if there is one.
    --redo deletes the markers of damaged shards: the next `counterforge run` makes these shards again, with the bytes
    that they had if machine and versions are the same, and nothing else. Without it nothing is written. Shards that
    were made with other versions, or on another kind of machine, are counted.

    Examples:
      counterforge verify runs/wardrobe
      counterforge verify runs/wardrobe --redo
    """
    from engine.audit.files import describe_makers, forget_shards, verify_run

    rundir = open_directory(options.run)
    differences = verify_run(rundir)
    done = len(rundir.done())
    if not differences:
        print(f"{done} of {rundir.info.num_shards} shards are done, all files are as their markers say")
        for makers in describe_makers(rundir):
            print(f"  {makers}")
        return 0
    for difference in differences:
        print(difference)
    shards = sorted({difference.shard for difference in differences})
    remedy = "To have them made again by the next run: counterforge verify RUN --redo"
    if options.redo:
        forget_shards(rundir, shards)
        remedy = "Their markers are deleted: `counterforge run` makes them again"
    print(f"counterforge: {len(differences)} differences in {len(shards)} of {done} shards. {remedy}", file=sys.stderr)
    return 1


def show(options: argparse.Namespace) -> int:
    """Write a contact sheet of a run as PNG, or a page to label edits.

    One row a source: the source, its placebo (an edit that changes nothing), its counterfactuals. Below each: the
    edit, why the verifier rejected it, and the classifier's predictions before and after.

    --label writes one HTML page instead, which needs no network: it shows accepted and rejected edits of each kind
    beside their sources, and you call each good or bad by click, touch or key. It saves a CSV from which
    `counterforge select RUN --calibrate` proposes thresholds.

    Examples:
      counterforge show runs/wardrobe
      counterforge show runs/wardrobe --rows 40 --out sheet.png
      counterforge show runs/wardrobe/shards/000003.tar
      counterforge show runs/wardrobe --label --num 200
    """
    from engine.errors import SelectionError
    from engine.report.contact_sheet import sheet_of_run, sheet_of_shard

    if options.label:
        return _show_labels(options)
    if options.num is not None:
        raise SelectionError("--num goes with --label; --rows says how many sources a contact sheet has")
    what, rows = options.what, max(options.rows, 1)
    if what.endswith(".tar"):
        picture, default = sheet_of_shard(Path(what), rows), Path(what).with_suffix(".png")
    else:
        rundir = open_directory(what)
        picture, default = sheet_of_run(rundir, rows), _inside(rundir, CONTACT_SHEET)
    write_file(options.out or default, picture)
    print(options.out or default)
    return 0


def _show_labels(options: argparse.Namespace) -> int:
    from engine.errors import SelectionError
    from engine.report.label_page import make_label_page

    num = NUM_LABELS if options.num is None else options.num
    if options.what.endswith(".tar"):
        raise SelectionError(f"--label needs a whole run, {options.what} is one shard: name the run directory")
    if num < 1:
        raise SelectionError(f"--num {num}: expected 1 or more, such as {NUM_LABELS}")
    rundir = open_directory(options.what)
    page = make_label_page(rundir, num)
    out = options.out or _inside(rundir, LABEL_PAGE)
    write_file(out, page.html.encode())
    print(f"{sum(page.strata.values())} pairs: " + ", ".join(f"{count} {name}" for name, count in page.strata.items()))
    if page.num_without_picture:
        print(
            f"{page.num_without_picture:,} rejected edits have no picture (shards.keep_rejected), so they cannot be "
            "labelled: thresholds can be tightened by these labels, not loosened"
        )
    print(out)
    return 0


def _inside(rundir: "RunDirectory", name: str) -> Path:
    """Return the path of a file in a local run directory; of a remote one, in the current folder."""
    return rundir.storage.local_path(name) if rundir.storage.is_local else Path(name)


def schema(options: argparse.Namespace) -> int:
    """Print the JSON schema of a run file, or of a report's summary.json.

    Every field, its type, default and meaning. Editors check run files with it.

    Examples:
      counterforge schema > run.schema.json
      counterforge schema --of summary > summary.schema.json
    then begin a run file with
      # yaml-language-server: $schema=run.schema.json
    """
    from engine.report.schema import summary_schema
    from engine.runfile.run import RunFile

    print_json(summary_schema() if options.of == "summary" else RunFile.model_json_schema())
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Check what this machine can run, and print how to get the rest.

    Look at Python, packages, Ray, GPUs, attention kernels (each is tried), DeepSpeed's compiler, storage and the zoo.
    Exit code 0 also where optional things are missing, 1 where a run cannot work. Writes nothing.

    Examples:
      counterforge doctor
      counterforge doctor --json
    """
    from cluster.doctor import examine

    checks = examine()
    if options.json:
        print_json([asdict(check) for check in checks])
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            print(f"{check.state:<8} {check.name:<{width}}  {check.detail}")
            if check.remedy:
                print(f"{'':<8} {'':<{width}}  -> {check.remedy}")
    return 1 if any(check.state == "failed" for check in checks) else 0
