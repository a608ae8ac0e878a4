"""The command line. This module and its neighbours cli_*.py are the only ones that print."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence

from cluster.cli import chaos as cli_chaos
from cluster.cli import evaluate as cli_evaluate
from cluster.cli import inspect as cli_inspect
from cluster.cli import run as cli_run
from cluster.cli import select as cli_select
from cluster.cli import watch as cli_watch
from cluster.cli.options import HelpFormatter
from cluster.terminal import plain_output, refuse_arguments, shown

DESCRIPTION = """\
Find what an image classifier wrongly relies on, and cure it with verified counterfactual images.

A run goes through five phases and keeps everything in one folder, so that it can be stopped at any time and goes on
where it was:

  plan       which sources get edits, in which shard      (spends nothing)
  generate   caption, think up edits, make them, verify them
  probe      which edits make the classifier fail
  reinforce  fine-tune it on them, and say whether the result may ship
  report     one HTML page with all of it"""

EXAMPLES = """\
start here:
  counterforge doctor                          what this machine can run
  counterforge plan configs/wardrobe.yaml      what a run would do and cost
  counterforge run configs/wardrobe.yaml       do it; the same command resumes
  counterforge status runs/wardrobe            how far it is

exit codes: 0 done, 1 the run failed, 2 something for you to mend (one message says what)"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    with plain_output():
        return _run(sys.argv[1:] if arguments is None else arguments)


def _run(arguments: Sequence[str]) -> int:
    from engine.errors import EngineError

    verbose = False
    try:
        refuse_arguments(arguments)
        options = make_parser().parse_args(arguments)
        start_logging(verbose := options.verbose)
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except EngineError as error:
        if verbose:
            logging.getLogger(__name__).error("%s", error, exc_info=True)
        print(shown(f"counterforge: {error}"), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("counterforge: stopped. Finished shards are kept; the same command goes on from there", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader (head, less) has enough; the interpreter must not complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="counterforge",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    parser.set_defaults(verbose=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    cli_run.add_commands(commands)
    cli_select.add_commands(commands)
    cli_evaluate.add_commands(commands)
    cli_inspect.add_commands(commands)
    cli_chaos.add_commands(commands)
    cli_watch.add_commands(commands)
    return parser


def start_logging(verbose: bool) -> None:
    """Send log lines to stderr: what the phases say, and only warnings of others."""
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in ("engine", "actors", "cluster"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)
    # A scheduler that ends this process politely gets the same clean stop as Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


class _StderrHandler(logging.Handler):
    """Write to what sys.stderr is now: a live display puts itself there to keep lines apart from its own."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        sys.stderr.write(shown(self.format(record)) + "\n")


class _Version(argparse.Action):
    """Print the version only when it is asked for: reading it costs time."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Print and leave."""
        from importlib.metadata import version

        print(f"counterforge {version('counterforge')}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
