"""The command `report`: the page, or Markdown for a pull request."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.cli.options import Commands, add_command, add_run_directory, live_console, open_directory

if TYPE_CHECKING:
    from engine.run.directory import RunDirectory


def add_report(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "report",
        "write the report: a page, or Markdown for a pull request",
        "Write RUN/report/index.html, one page that needs no other file, and RUN/report/summary.json with its\n"
        "numbers. `counterforge schema --of summary` describes those.\n"
        "\n"
        "--format md prints Markdown instead, with verdict, reasons, before and after, worst cells, next steps and\n"
        "cost; it writes nothing into RUN.",
        "  counterforge report runs/wardrobe\n"
        "  counterforge report runs/wardrobe --out page.html\n"
        "  counterforge report runs/wardrobe --format md | gh pr comment --body-file -",
    )
    add_run_directory(parser)
    parser.add_argument(
        "--format", choices=("html", "md"), default="html", help="html: the page (default); md: Markdown, to stdout"
    )
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="write the Markdown to this file; of the page: a copy to this file"
    )
    parser.set_defaults(command=report_command)


def report_command(options: argparse.Namespace) -> int:
    """Write the page, or print the Markdown."""
    rundir = open_directory(options.run)
    if options.format == "md":
        from engine.report.markdown import markdown_report
        from engine.report.page import summarise

        run = rundir.run()
        text = markdown_report(summarise(rundir, run)[0], run)
        if options.out is None:
            print(text, end="")
        else:
            _write(options.out, text.encode())
        return 0
    from cluster.phases.pipeline import run_phases
    from engine.report.page import PAGE

    run_phases(("report",), rundir.run(), rundir, rundir.plan(), None, live_console(), again=True)
    if options.out is not None:
        _write(options.out, rundir.storage.read(PAGE))
    for line in report_lines(rundir):
        print(line)
    return 0


def report_lines(rundir: "RunDirectory") -> list[str]:
    """Return the verdict of a run with its reasons, and where the page is."""
    from engine.report.page import PAGE, SUMMARY
    from engine.report.views.advice import headline

    summary: Any = rundir.read_json(SUMMARY)
    reasons = [f"  {reason}" for reason in summary["reasons"]]
    return [headline(summary["verdict"]), *reasons, f"report: {rundir.storage.name(PAGE)}"]


def _write(path: Path, data: bytes) -> None:
    from engine.errors import RunError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise RunError(f"--out: cannot write {path}: {error.strerror}: name a file in a folder of yours") from error
