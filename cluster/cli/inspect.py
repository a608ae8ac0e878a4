"""The commands that look: status, verify, show, schema, doctor."""

import argparse
import json
import sys
from pathlib import Path

from cluster.cli.options import Commands, add_command, add_run_directory, open_directory

LABEL_PAGE = "label.html"
NUM_LABELS = 200


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    _add_status(commands)
    _add_verify(commands)
    _add_show(commands)
    _add_schema(commands)
    _add_doctor(commands)


def _add_status(commands: Commands) -> None:
    parser = add_command(
        commands,
        "status",
        "say how far a run is, from its markers alone",
        "Count what the markers of finished shards say. Safe at any time, from any machine that can read them.",
        "  counterforge status runs/wardrobe\n  counterforge status s3://bucket/runs/first --json",
    )
    add_run_directory(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=status_command)


def _add_verify(commands: Commands) -> None:
    parser = add_command(
        commands,
        "verify",
        "hash every file of a run again and compare it with its marker",
        "Read every file that a marker names; compare size and BLAKE3. Exit code 1 where one is missing or differs.\n"
        "With --redo the markers of damaged shards are taken away: the next `counterforge run` makes these again,\n"
        "with the bytes that they had if machine and versions are the same, and nothing else. Shards that were made\n"
        "with other versions, or on another kind of machine, are counted.",
        "  counterforge verify runs/wardrobe\n  counterforge verify runs/wardrobe --redo",
    )
    add_run_directory(parser)
    parser.add_argument("--redo", action="store_true", help="have what is damaged made again by the next run")
    parser.set_defaults(command=verify_command)


def _add_show(commands: Commands) -> None:
    parser = add_command(
        commands,
        "show",
        "write a contact sheet of pictures as PNG, or a page on which to label edits",
        "One row a source: the source, its placebo (an edit that changes nothing), its counterfactuals. Below each:\n"
        "the edit, what the verifier turned it down for, and what the classifier says before and after.\n"
        "\n"
        "--label writes one HTML page instead, which needs no network: it shows edits beside their sources, accepted\n"
        "and rejected ones of each kind, and you call each good or bad by click, touch or key. It saves a CSV from\n"
        "which `counterforge select RUN --calibrate` proposes thresholds.",
        "  counterforge show runs/wardrobe\n"
        "  counterforge show runs/wardrobe --rows 40 --out sheet.png\n"
        "  counterforge show runs/wardrobe/shards/000003.tar\n"
        "  counterforge show runs/wardrobe --label --num 200",
    )
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
    parser.set_defaults(command=show_command)


def _add_schema(commands: Commands) -> None:
    parser = add_command(
        commands,
        "schema",
        "print the JSON schema of a run file, or of a report's summary.json",
        "Print the JSON schema: every field, its type, default and meaning. Editors check run files with it.",
        "  counterforge schema > run.schema.json\n"
        "  counterforge schema --of summary > summary.schema.json\n"
        "then begin a run file with\n"
        "  # yaml-language-server: $schema=run.schema.json",
    )
    parser.add_argument(
        "--of", choices=("run", "summary"), default="run", help="run: run files (default); summary: report/summary.json"
    )
    parser.set_defaults(command=schema_command)


def _add_doctor(commands: Commands) -> None:
    parser = add_command(
        commands,
        "doctor",
        "say what this machine can run, and how to get the rest",
        "Look at Python, packages, Ray, GPUs, attention kernels (each is tried), DeepSpeed's compiler, storage, zoo.\n"
        "Exit code 0 also where optional things are missing, 1 where a run cannot work.",
        "  counterforge doctor\n  counterforge doctor --json",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=doctor_command)


def status_command(options: argparse.Namespace) -> int:
    """Print what the markers say."""
    from dataclasses import asdict

    from cluster.monitor.progress import describe, snapshot
    from engine.run.attempts import at_work
    from engine.run.directory import PHASE_LOG
    from engine.run.lease import holders
    from engine.wording import duration

    rundir = open_directory(options.run)
    state = snapshot(rundir.read_markers(rundir.done()), rundir.info.num_shards, rundir.plan().num_edited)
    phases = rundir.read_json(PHASE_LOG) if rundir.exists(PHASE_LOG) else {}
    seconds = phases.get("seconds", {}) if isinstance(phases, dict) else {}
    working = holders(rundir.storage)
    again = [work for work in at_work(rundir.storage) if work.begun > 1]
    if options.json:
        held = {phase: asdict(holder) for phase, holder in working.items()}
        more = {"plan": rundir.info.digest, "phases": seconds, "held": held, "begun_again": [*map(asdict, again)]}
        print(json.dumps({**asdict(state), **more}, indent=2))
        return 0
    print(f"{rundir.info.name} in {rundir.storage}, plan {rundir.info.digest[:12]}")
    print(describe(state))
    for phase, holder in working.items():
        print(f"  {phase}: held by {holder.describe()}")
    for work in again:
        print(f"  {work.where}: shard {work.shard} begun {work.begun} times: a worker ended, or the stage raised")
    for title, reasons in (("rejected", state.counts.rejected), ("not processed", state.counts.quarantined)):
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1]):
            print(f"  {title}: {reason} {count}")
    for stage, mean in state.seconds.items():
        print(f"  {stage}: {duration(mean)} a shard")
    if isinstance(seconds, dict) and seconds:
        print("phases: " + ", ".join(f"{name} {duration(float(str(spent)))}" for name, spent in seconds.items()))
    return 0


def verify_command(options: argparse.Namespace) -> int:
    """Print every difference."""
    from engine.audit.files import describe_makers, forget_shards, verify_run

    rundir = open_directory(options.run)
    differences = verify_run(rundir)
    for difference in differences:
        print(difference)
    done = len(rundir.done())
    if differences:
        shards = sorted({difference.shard for difference in differences})
        what = f"counterforge: {len(differences)} differences in {len(shards)} of {done} shards"
        if options.redo:
            forget_shards(rundir, shards)
            print(f"{what}. Their markers are gone: `counterforge run` makes them again", file=sys.stderr)
        else:
            print(f"{what}. To have them made again by the next run: counterforge verify RUN --redo", file=sys.stderr)
        return 1
    print(f"{done} of {rundir.info.num_shards} shards are done, all files are as their markers say")
    for makers in describe_makers(rundir):
        print(f"  {makers}")
    return 0


def show_command(options: argparse.Namespace) -> int:
    """Write a contact sheet, or the page to label edits."""
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
        picture, default = sheet_of_run(rundir, rows), Path("contact_sheet.png")
        if rundir.storage.is_local:
            default = rundir.storage.local_path("contact_sheet.png")
    out: Path = options.out or default
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(picture)
    print(out)
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
    out: Path = options.out or (rundir.storage.local_path(LABEL_PAGE) if rundir.storage.is_local else Path(LABEL_PAGE))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page.html, encoding="utf-8")
    print(f"{sum(page.strata.values())} pairs: " + ", ".join(f"{count} {name}" for name, count in page.strata.items()))
    if page.num_without_picture:
        print(
            f"{page.num_without_picture:,} rejected edits have no picture (shards.keep_rejected), so they cannot be "
            "labelled: thresholds can be tightened by these labels, not loosened"
        )
    print(out)
    return 0


def schema_command(options: argparse.Namespace) -> int:
    """Print the JSON schema."""
    if options.of == "summary":
        from engine.report.schema import summary_schema

        print(json.dumps(summary_schema(), indent=2))
        return 0
    from engine.runfile.run import RunFile

    print(json.dumps(RunFile.model_json_schema(), indent=2))
    return 0


def doctor_command(options: argparse.Namespace) -> int:
    """Print what this machine can run."""
    from dataclasses import asdict

    from cluster.doctor import examine

    checks = examine()
    if options.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            print(f"{check.state:<8} {check.name:<{width}}  {check.detail}")
            if check.remedy:
                print(f"{'':<8} {'':<{width}}  -> {check.remedy}")
    return 1 if any(check.state == "failed" for check in checks) else 0
