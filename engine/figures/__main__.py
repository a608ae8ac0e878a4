"""Fill the figures of Markdown files, or write those of a finished run: `python -m engine.figures`."""

import argparse
import sys
from pathlib import Path

from engine.errors import EngineError
from engine.figures.figures import FIGURES_FOLDER, describe, fill, machine, table, unmeasured
from engine.figures.of_a_run import write_run_figures


def main() -> int:
    """Fill the blocks of figures in Markdown files, or write and print the figures of a finished run."""
    parser = argparse.ArgumentParser(prog="python -m engine.figures", description=main.__doc__)
    parser.add_argument("files", type=Path, nargs="*", help="Markdown files with blocks of figures")
    parser.add_argument("--run", help="run directory with a report: write its figures and a picture of its first rows")
    parser.add_argument("--name", default="demo", help="file name of a run's figures")
    parser.add_argument("--figures", type=Path, default=FIGURES_FOLDER, help="folder of the JSON files")
    arguments = parser.parse_args()
    try:
        if arguments.run:
            figures, path = write_run_figures(arguments.run, arguments.name, arguments.figures)
            print(f"{table(figures)}\n\n{describe(machine())}\n{path}\n{path.with_suffix('.jpg')}")
        for file in arguments.files:
            _fill_file(file, arguments.figures)
    except (EngineError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _fill_file(path: Path, folder: Path) -> None:
    before = path.read_text()
    after = fill(before, folder)
    if after != before:
        path.write_text(after)
        print(f"{path}: filled")
    if missing := unmeasured(before, folder):
        print(f"{path}: left as it was, not measured here: {', '.join(f'make {name}' for name in missing)}")


if __name__ == "__main__":
    sys.exit(main())
