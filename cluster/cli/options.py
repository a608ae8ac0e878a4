"""What several commands of the command line share: their options, and how a run is opened."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console

    from cluster.session.session import SessionConfig
    from engine.run.directory import RunDirectory
    from engine.runfile.run import RunFile

# Quoted: at run time argparse's class takes no parameter.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keep the line breaks of texts, and give names a column wide enough."""

    def __init__(self, prog: str, width: int | None = None) -> None:
        super().__init__(prog, max_help_position=30, width=width)


def add_command(commands: Commands, name: str, summary: str, text: str, example: str) -> argparse.ArgumentParser:
    """Add a command whose help teaches: what it does, then examples."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=text,
        epilog=f"examples:\n{example}",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say more, with tracebacks")
    return parser


def add_run_file(parser: argparse.ArgumentParser, out: bool = True) -> None:
    """Add the arguments that name a run file and its changes."""
    parser.add_argument(
        "config", metavar="CONFIG", type=Path, help="run file (YAML); `counterforge schema` describes it"
    )
    add_overrides(parser)
    if out:
        parser.add_argument("--out", metavar="DIR", help="run directory or s3://, gs:// URI (default: runs/<name>)")


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add the argument that changes fields of the run file."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b=c",
        dest="overrides",
        help="change one field, as YAML; may be given many times",
    )


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say where to run."""
    parser.add_argument(
        "--address",
        help="join the Ray cluster at this address (auto: the one this machine is in); default: this machine alone",
    )
    parser.add_argument(
        "--autoscaling", action="store_true", help="the cluster grows on demand: ask for nodes that are not there yet"
    )
    parser.add_argument(
        "--metrics-port",
        type=int,
        metavar="N",
        help="serve metrics for Prometheus at localhost:N/metrics (needs counterforge[metrics])",
    )
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="go on although another process holds this run: nothing that it still makes is taken",
    )


def add_run_directory(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names a run directory."""
    parser.add_argument("run", metavar="RUN", help="run directory, as given to `run --out`")


def load(options: argparse.Namespace) -> "RunFile":
    """Read the run file; plugins may lie beside it or in the current folder."""
    from engine.runfile.load import load_run_file

    for folder in (options.config.parent.resolve(), Path.cwd()):
        # At the end: a file of the user's must not hide an installed package.
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    return load_run_file(options.config, options.overrides)


def out_of(options: argparse.Namespace, run: "RunFile") -> str:
    """Return the run directory of a run; workers have other current folders, so it is absolute."""
    out = options.out or f"runs/{run.name}"
    return out if "://" in out else str(Path(out).resolve())


def open_directory(run: str) -> "RunDirectory":
    """Open a run directory; the plugins of a run may lie in the current folder."""
    from engine.run.directory import RunDirectory

    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    return RunDirectory.open(run if "://" in run else str(Path(run).resolve()))


def session_of(options: argparse.Namespace) -> "SessionConfig":
    """Return where to run."""
    from cluster.session.session import SessionConfig

    return SessionConfig(address=options.address, autoscaling=options.autoscaling, metrics_port=options.metrics_port)


def live_console() -> "Console | None":
    """Return a console for a live display where stderr is a terminal, else None: plain lines."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console

    return Console(stderr=True)
