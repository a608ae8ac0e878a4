"""What the commands share: their help, their options, how a run is opened and how results are printed."""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console

    from cluster.session.session import SessionConfig
    from engine.run.directory import RunDirectory
    from engine.runfile.run import RunFile

# Quoted: at run time argparse's class takes no parameter.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Command = Callable[[argparse.Namespace], int]


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keep the line breaks of texts, and give names a column wide enough."""

    def __init__(self, prog: str, width: int | None = None) -> None:
        super().__init__(prog, max_help_position=30, width=width)


def add_command(commands: Commands, name: str, command: Command) -> argparse.ArgumentParser:
    """Add a command; the docstring of its function is its help: a summary line, details, and `Examples:`."""
    summary, _, text = (command.__doc__ or "").partition("\n\n")
    details, _, examples = dedent(text).rstrip().partition("Examples:\n")
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary.rstrip("."),
        description=f"{summary}\n\n{details}".rstrip(),
        epilog=f"examples:\n{examples}",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log more, and print tracebacks of errors")
    parser.set_defaults(command=command)
    return parser


def add_run_file(parser: argparse.ArgumentParser, out: bool = True) -> None:
    """Add CONFIG, --set and, with `out`, --out."""
    parser.add_argument(
        "config", metavar="CONFIG", type=Path, help="run file (YAML); `counterforge schema` describes it"
    )
    add_overrides(parser)
    if out:
        parser.add_argument("--out", metavar="DIR", help="run directory or s3://, gs:// URI (default: runs/<name>)")


def add_overrides(
    parser: argparse.ArgumentParser,
    metavar: str = "a.b=c",
    help: str = "change one field of the run file, value as YAML; repeatable",
) -> None:
    """Add --set, which changes fields of the run file."""
    parser.add_argument("--set", action="append", default=[], metavar=metavar, dest="overrides", help=help)


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add the options of the Ray session and of the lease."""
    parser.add_argument(
        "--address", help="join the Ray cluster at this address (auto: this machine's); default: this machine alone"
    )
    parser.add_argument(
        "--autoscaling", action="store_true", help="the cluster grows on demand: wait for nodes that it lacks now"
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
        help="take the run's lease from another process, whose later results are refused",
    )


def add_run_directory(parser: argparse.ArgumentParser) -> None:
    """Add RUN."""
    parser.add_argument("run", metavar="RUN", help="run directory, as given to `run --out`")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def load(options: argparse.Namespace) -> "RunFile":
    """Read the run file, and the value ranges of its images; plugins may lie beside it or in the current folder."""
    from engine.plan.value_ranges import with_value_ranges
    from engine.runfile.load import load_run_file

    import_plugins_from(options.config.parent)
    return with_value_ranges(load_run_file(options.config, options.overrides))


def import_plugins_from(*folders: Path) -> None:
    """Let Python find the user's modules in these folders and in the current one."""
    for folder in (*folders, Path.cwd()):
        # At the end: a file of the user's must not hide an installed package.
        if str(folder.resolve()) not in sys.path:
            sys.path.append(str(folder.resolve()))


def absolute(root: str) -> str:
    """Return a run directory as an absolute path, since workers have other current folders; URIs stay."""
    return root if "://" in root else str(Path(root).resolve())


def out_of(options: argparse.Namespace, run: "RunFile") -> str:
    """Return the run directory of a run: --out, or runs/<name>."""
    return absolute(options.out or f"runs/{run.name}")


def open_directory(run: str) -> "RunDirectory":
    """Open a run directory; the plugins of a run may lie in the current folder."""
    from engine.errors import RunDirectoryError
    from engine.run.directory import RunDirectory

    import_plugins_from()
    if "://" not in run and Path(run).is_file():
        raise RunDirectoryError(_not_a_folder(Path(run)))
    return RunDirectory.open(absolute(run))


def _not_a_folder(path: Path) -> str:
    """Return the message where RUN is a file, with the folder that a run file's run is written to."""
    from engine.errors import UserError
    from engine.run.info import RUN_INFO
    from engine.runfile.load import load_run_file

    example, kind = "runs/NAME", "file"
    if path.suffix.lower() in (".yaml", ".yml"):
        kind = "run file"
        with suppress(UserError):
            example = f"runs/{load_run_file(path).name}"
    # RUN/run.yaml, RUN/shards/000000.tar
    example = next((str(folder) for folder in path.parents if (folder / RUN_INFO).is_file()), example)
    return f"{path} is a {kind}; RUN is the folder that `counterforge run` wrote, such as {example}"


def session_of(options: argparse.Namespace) -> "SessionConfig":
    """Return the Ray session that the options ask for."""
    from cluster.session.session import SessionConfig

    return SessionConfig(address=options.address, autoscaling=options.autoscaling, metrics_port=options.metrics_port)


def live_console() -> "Console | None":
    """Return a console for a live display where stderr is a terminal that can show it, else None: plain lines."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console

    console = Console(stderr=True)
    return None if console.is_dumb_terminal else console


def print_json(content: object) -> None:
    """Print a result as JSON."""
    print(json.dumps(content, indent=2))


def write_file(path: Path, data: bytes) -> None:
    """Write a file that --out names, and its folder; RunError where that fails."""
    from engine.errors import RunError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise RunError(f"--out: cannot write {path}: {error.strerror}: name a file in a folder of yours") from error


def share_with_interval(value: float, low: float, high: float) -> str:
    """Return a share and its interval in per cent: ` 83.4 % [79.1, 86.0]`."""
    return f"{percent(value)} [{100 * low:.1f}, {100 * high:.1f}]"


def percent(value: float) -> str:
    """Return a share in per cent, a dash for NaN."""
    return "   -  " if value != value else f"{100 * value:5.1f} %"
