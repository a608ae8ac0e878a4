"""The command `report`: the page, or Markdown for a pull request."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.cli.options import Commands, add_command, add_run_directory, live_console, open_directory, write_file

if TYPE_CHECKING:
    from engine.run.directory import RunDirectory


def add_commands(commands: Commands) -> None:
    """Add the command of this module."""
    parser = add_command(commands, "report", report)
    add_run_directory(parser)
    parser.add_argument(
        "--format", choices=("html", "md"), default="html", help="html: the page (default); md: Markdown, to stdout"
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="write the Markdown, or a copy of the page, to FILE")


def report(options: argparse.Namespace) -> int:
    """Write the report as one HTML page, or as Markdown for a pull request.

    Writes RUN/report/index.html, a page that needs no other file, and RUN/report/summary.json with its numbers
    (`counterforge schema --of summary` describes them).

    --format md prints Markdown instead: verdict, reasons, accuracies before and after, weakest cells, next steps and
    cost. It writes nothing into RUN.

    Examples:
      counterforge report runs/wardrobe
      counterforge report runs/wardrobe --out page.html
      counterforge report runs/wardrobe --format md | gh pr comment --body-file -
    """
    rundir = open_directory(options.run)
    if options.format == "md":
        from engine.report.markdown import markdown_report
        from engine.report.page import summarise

        run = rundir.run()
        text = markdown_report(summarise(rundir, run)[0], run)
        if options.out is None:
            print(text, end="")
        else:
            write_file(options.out, text.encode())
        return 0
    from cluster.phases.pipeline import run_phases
    from engine.report.page import PAGE

    run_phases(("report",), rundir.run(), rundir, rundir.plan(), None, live_console(), again=True)
    if options.out is not None:
        write_file(options.out, rundir.storage.read(PAGE))
    print(*report_lines(rundir), sep="\n")
    return 0


def report_lines(rundir: "RunDirectory") -> list[str]:
    """Return the verdict of a run, its reasons and the path of the page."""
    from engine.report.page import PAGE, SUMMARY
    from engine.report.views.advice import headline

    summary: Any = rundir.read_json(SUMMARY)
    reasons = [f"  {reason}" for reason in summary["reasons"]]
    return [headline(summary["verdict"], rundir.run()), *reasons, f"report: {rundir.storage.name(PAGE)}"]
