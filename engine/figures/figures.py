"""Measured figures in the one form that every command of the project writes, and the tables filled from them."""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from engine.errors import RunError
from engine.processor import processor
from engine.statistics import wilson_interval

FIGURES_FOLDER = Path("build/figures")
PACKAGES = ("torch", "diffusers", "transformers", "ray", "webdataset", "deepspeed", "numpy")
BLOCK = re.compile(
    r"(<!-- (?P<form>figures|crossed) (?P<command>[\w-]+): (?P<names>[^>]*?) -->\n).*?(<!-- /(?P=form) -->)", re.DOTALL
)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Hold one measured value with its 95 % interval and what was asked of it.

    `low`, `high`, `target` and `better` are None where there is no interval, nothing was asked, or the figure is a
    reference for others. `n` counts the samples behind the value.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    target: float | None = None
    better: Literal["higher", "lower"] | None = None
    n: int | None = None
    unit: str = "share"

    @property
    def met(self) -> bool | None:
        """Return whether the value reaches its target, None where there is none."""
        if self.target is None or self.better is None:
            return None
        return self.value >= self.target if self.better == "higher" else self.value <= self.target


def share(
    name: str,
    right: int,
    n: int,
    target: float | None = None,
    *,
    better: Literal["higher", "lower"] = "higher",
) -> Figure:
    """Return a share of n with Wilson's interval."""
    low, high = wilson_interval(right, n)
    return Figure(name=name, value=right / n, low=low, high=high, target=target, better=better, n=n)


def machine() -> dict[str, object]:
    """Return what the figures were measured on: cores, memory in bytes, GPU, versions, revision of the code."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or None,
        "python": platform.python_version(),
        "versions": dict(_versions()),
        "revision": _output("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty") or None,
    }


def write_figures(command: str, figures: Sequence[Figure], folder: Path = FIGURES_FOLDER) -> Path:
    """Write `folder`/`command`.json, the figures and the machine, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{command}.json"
    partial = path.with_suffix(".partial")
    record = {"figures": [asdict(figure) for figure in figures], "machine": machine()}
    partial.write_text(json.dumps(record, indent=2) + "\n")
    partial.rename(path)
    return path


def read_figures(command: str, folder: Path = FIGURES_FOLDER) -> tuple[list[Figure], dict[str, object]]:
    """Return the figures of a command and the machine; raises RunError where they were not measured here."""
    path = folder / f"{command}.json"
    try:
        record = json.loads(path.read_text())
        return [Figure(**figure) for figure in record["figures"]], record["machine"]
    except FileNotFoundError as error:
        raise RunError(f"{path} does not exist: run `make {command}` first") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is no file of figures ({error}): run `make {command}` again") from error


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as a Markdown table, aligned for a terminal too."""
    head = ("figure", "value", "95 % interval", "target", "met", "n")
    return _aligned([head, *(cells(figure) for figure in figures)])


def crossed(figures: Sequence[Figure], measures: Sequence[str]) -> str:
    """Return what each subject reached in several measures as one Markdown table: a row a subject, a column a measure.

    A figure `MEASURE.SUBJECT` stands in its subject's row, with its interval, and a dash where a subject has none; rows
    come in the order of the figures. Raises RunError where a measure has no figure.
    """
    found = {
        measure: {
            figure.name.removeprefix(f"{measure}."): figure
            for figure in figures
            if figure.name.startswith(f"{measure}.")
        }
        for measure in measures
    }
    for measure, by_subject in found.items():
        if not by_subject:
            raise RunError(f"no figure {measure + '.*'!r} was measured: mend the names of the block")
    subjects = dict.fromkeys(subject for by_subject in found.values() for subject in by_subject)
    heads = [measure.rpartition(".")[2].replace("_", " ") for measure in measures]
    rows = [(subject, *(_value(found[measure].get(subject)) for measure in measures)) for subject in subjects]
    return _aligned([("", *heads), *rows])


def cells(figure: Figure) -> tuple[str, ...]:
    """Return the texts of a figure's row: name, value, interval, target, whether it is met, n."""
    unit = "" if figure.unit == "share" else f" {figure.unit}"
    interval = "" if figure.low is None or figure.high is None else f"{_number(figure.low)} to {_number(figure.high)}"
    sign = {"higher": "≥ ", "lower": "≤ ", None: ""}[figure.better]
    target = "" if figure.target is None else f"{sign}{_number(figure.target)}"
    met = {True: "yes", False: "no", None: ""}[figure.met]
    return figure.name, f"{_number(figure.value)}{unit}", interval, target, met, f"{figure.n:,}" if figure.n else ""


def describe(on: dict[str, object]) -> str:
    """Return one sentence that names the machine, its versions and the revision."""
    versions = on["versions"]
    named = ", ".join(f"{name} {number}" for name, number in versions.items()) if isinstance(versions, dict) else ""
    gibibytes = int(str(on["memory_bytes"])) / 2**30
    return (
        f"{on['cores']} cores of {on['processor']}, {gibibytes:.0f} GiB, GPU: {on['gpu'] or 'none'}; "
        f"Python {on['python']}, {named}; revision {on['revision']}."
    )


def measured_by(command: str, on: dict[str, object]) -> str:
    """Return the lines below a table: the command that measured it and the machine, at most 120 characters each."""
    return textwrap.fill(f"Measured by `make {command}` on {describe(on)}", 120, break_on_hyphens=False)


def fill(text: str, folder: Path = FIGURES_FOLDER) -> str:
    """Return a Markdown text with its blocks of figures filled anew.

    A block starts with `<!-- figures COMMAND: PATTERN PATTERN -->` and ends with `<!-- /figures -->`; it gets the
    figures whose names match one of the patterns (as in a shell). A block from `<!-- crossed COMMAND: MEASURE MEASURE
    -->` to `<!-- /crossed -->` gets them as `crossed` puts them. Lines below a table have at most 120 characters. What
    was not measured in this folder stays as it is. Raises RunError where a pattern matches none.
    """
    missing = unmeasured(text, folder)

    def filled(block: re.Match[str]) -> str:
        command, names = block["command"], block["names"].split()
        if command in missing:
            return block[0]
        figures, on = read_figures(command, folder)
        rows = crossed(figures, names) if block["form"] == "crossed" else table(_chosen(figures, command, names))
        return f"{block[1]}{rows}\n\n{measured_by(command, on)}\n{block[5]}"

    return BLOCK.sub(filled, text)


def unmeasured(text: str, folder: Path = FIGURES_FOLDER) -> list[str]:
    """Return the commands of a text's blocks that have no file of figures in the folder."""
    named = dict.fromkeys(block["command"] for block in BLOCK.finditer(text))
    return [command for command in named if not (folder / f"{command}.json").exists()]


def main() -> int:
    """Fill the blocks of figures in the Markdown files that are named, those that were measured here."""
    parser = argparse.ArgumentParser(prog="python -m engine.figures.figures", description=main.__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="Markdown files with blocks of figures")
    parser.add_argument("--figures", type=Path, default=FIGURES_FOLDER, help="folder of the JSON files")
    arguments = parser.parse_args()
    try:
        for path in arguments.files:
            before = path.read_text()
            after = fill(before, arguments.figures)
            if after != before:
                path.write_text(after)
                print(f"{path}: filled")
            if missing := unmeasured(before, arguments.figures):
                print(f"{path}: left as it was, not measured here: {', '.join(f'make {name}' for name in missing)}")
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _chosen(figures: Sequence[Figure], command: str, patterns: Sequence[str]) -> list[Figure]:
    chosen: list[Figure] = []
    for pattern in patterns:
        matching = [figure for figure in figures if fnmatch(figure.name, pattern)]
        if not matching:
            raise RunError(f"`make {command}` measured no figure {pattern!r}: mend the block's patterns")
        chosen += [figure for figure in matching if figure not in chosen]
    return chosen


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, its first row the head, every column as wide as its widest cell."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |".rstrip() for row in rows
    ]
    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _value(figure: Figure | None) -> str:
    """Return a figure and its interval in one cell."""
    if figure is None:
        return "-"
    _, value, interval, *_ = cells(figure)
    return f"{value} ({interval})" if interval else value


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()  # nosec B603 # our own commands
    except (OSError, subprocess.SubprocessError):
        return ""


if __name__ == "__main__":
    sys.exit(main())
