"""The command line. Only the modules of this folder print.

Our modules are imported in functions: only `main` makes sure that `engine` is ours, and not a file of the user's.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence

from cluster.session.imports import own_packages_first
from cluster.session.threads import share_cores

DESCRIPTION = """\
Find what an image classifier wrongly relies on, and fix it with verified counterfactual images.

A run has five phases and keeps everything in one folder. It can be stopped at any time; the same command resumes it:

  plan       assign sources to shards and splits (no GPU, no cost)
  generate   caption, propose edits, draw them, verify them
  probe      measure which edits make the classifier fail
  reinforce  fine-tune it on them, and decide whether the result may ship
  report     one HTML page with all results"""

EXAMPLES = """\
start here:
  counterforge doctor                          check this machine
  counterforge plan configs/wardrobe.yaml      print what a run would do and cost
  counterforge run configs/wardrobe.yaml       run it; the same command resumes
  counterforge status runs/wardrobe            print its progress

exit codes: 0 done, 1 the run failed, 2 wrong input (one message says what to change), 130 stopped by Ctrl-C,
143 stopped by SIGTERM"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    share_cores()
    own_packages_first()
    from cluster.terminal import plain_output

    with plain_output():
        return _run(sys.argv[1:] if arguments is None else arguments)


def _run(arguments: Sequence[str]) -> int:
    from cluster.terminal import refuse_arguments, shown
    from engine.errors import EngineError, UserError
    from engine.interrupt import exit_code

    verbose = False
    try:
        refuse_arguments(arguments)
        try:
            os.getcwd()
        except FileNotFoundError as error:
            raise UserError("the current folder was deleted: change to one that exists") from error
        options = make_parser().parse_args(arguments)
        start_logging(verbose := options.verbose)
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except EngineError as error:
        if verbose:
            logging.getLogger(__name__).error("%s", error, exc_info=True)
        print(shown(f"counterforge: {error}"), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop:
        print("counterforge: stopped. Finished shards are kept; the same command goes on from there", file=sys.stderr)
        return exit_code(stop)
    except BrokenPipeError:
        # The reader (head, less) has closed the pipe; the interpreter must not fail when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    from cluster.cli import chaos, evaluate, inspect, learn, report, run, select, watch
    from cluster.cli.options import HelpFormatter

    parser = argparse.ArgumentParser(
        prog="counterforge",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    parser.set_defaults(verbose=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (run, report, select, evaluate, learn, inspect, chaos, watch):
        module.add_commands(commands)
    return parser


def start_logging(verbose: bool) -> None:
    """Send log lines to stderr: ours from INFO (DEBUG with `verbose`), those of libraries from WARNING."""
    from engine.interrupt import terminate

    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in ("engine", "actors", "cluster"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)
    # SIGTERM, as schedulers send it, gets the same clean stop as Ctrl-C.
    signal.signal(signal.SIGTERM, terminate)


class _StderrHandler(logging.Handler):
    """Write to the present sys.stderr: a live display replaces it to keep log lines apart from its own."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        from cluster.terminal import shown

        sys.stderr.write(shown(self.format(record)) + "\n")


class _Version(argparse.Action):
    """Read the version only when it is asked for: that takes time."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Print the version and exit."""
        from importlib.metadata import version

        print(f"counterforge {version('counterforge')}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
