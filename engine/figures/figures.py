"""Measured values (figures): their JSON files, their tables, and Markdown blocks that are filled from the files."""

import json
import os
import re
import subprocess
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from engine.errors import RunError
from engine.processor import processor
from engine.shards.marker import revision, versions
from engine.statistics import wilson_interval

FIGURES_FOLDER = Path("build/figures")
PACKAGES = ("torch", "diffusers", "transformers", "ray", "webdataset", "deepspeed", "numpy")
BLOCK = re.compile(
    r"(<!-- (?P<form>figures|crossed) (?P<command>[\w-]+): (?P<names>[^>]*?) -->\n).*?(<!-- /(?P=form) -->)", re.DOTALL
)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured value with its 95 % interval and its target.

    `low` and `high` are None without an interval, `target` and `better` without a target (a reference value, say). `n`
    is the number of samples.
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
    """Return processor, cores, memory in bytes, GPU, package versions and revision of the code."""
    packages = dict(versions(PACKAGES))
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": _gpu_names(),
        "python": packages.pop("python"),
        "versions": packages,
        "revision": revision(),
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
    """Return a Markdown table with one row a subject and one column a measure.

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
    commit, _, dirty = str(on["revision"]).partition("-")
    return (
        f"{on['cores']} cores of {on['processor']}, {gibibytes:.0f} GiB, GPU: {on['gpu'] or 'none'}; "
        f"Python {on['python']}, {named}; revision {commit[:7]}{dirty and '-dirty'}."
    )


def fill(text: str, folder: Path = FIGURES_FOLDER) -> str:
    """Return a Markdown text with its blocks of figures filled from the JSON files.

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
        measured_by = f"Measured by `make {command}` on {describe(on)}"
        return f"{block[1]}{rows}\n\n{textwrap.fill(measured_by, 120, break_on_hyphens=False)}\n{block[5]}"

    return BLOCK.sub(filled, text)


def unmeasured(text: str, folder: Path = FIGURES_FOLDER) -> list[str]:
    """Return the commands of a text's blocks that have no file of figures in the folder."""
    named = dict.fromkeys(block["command"] for block in BLOCK.finditer(text))
    return [command for command in named if not (folder / f"{command}.json").exists()]


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


def _gpu_names() -> str | None:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # nosec B603 # our own command
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
