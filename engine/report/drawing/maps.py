"""Heat maps as tables: weakness by class and edit value, accuracy by class and attribute value."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.report.drawing.charts import heat_level
from engine.statistics import wilson_interval

MAX_ROWS, MAX_COLUMNS = 20, 12
HARM = ("h0", "h1", "h2", "h3", "h4", "h5", "h6")
HELP = ("g1", "g2")
# Drops of an absolute value below this share of the colour scale have no colour.
NEUTRAL = 0.05

Content = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class HeatCell:
    """One cell: a number as text, small notes, CSS classes, and a sentence for the pointer."""

    text: str
    notes: tuple[str, ...] = ()
    css: str = ""
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """One heat map: classes by values, each row with its name; `wide` cells have room for an interval."""

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[HeatCell]]]
    wide: bool = False


EMPTY = HeatCell(text="–", css="empty")
# Class and value; None: all of them.
Place = tuple[str | None, str | None]


def shown_cells(weakness: Content) -> list[Content]:
    """Return the cells of the MAX_ROWS weakest classes and the MAX_COLUMNS most frequent values, in their order."""
    cells: Sequence[Content] = weakness["cells"]
    classes = set(list(dict.fromkeys(cell["class_name"] for cell in cells if cell["class_name"]))[:MAX_ROWS])
    values: set[tuple[str, str]] = set()
    for kind in {cell["kind"] for cell in cells}:
        of_kind = [cell for cell in cells if cell["level"] == "kind, after" and cell["kind"] == kind]
        of_kind.sort(key=lambda cell: -int(cell["n_edits"]))
        values |= {(kind, cell["after"]) for cell in of_kind[:MAX_COLUMNS]}
    return [
        cell
        for cell in cells
        if (cell["class_name"] is None or cell["class_name"] in classes)
        and (cell["after"] is None or (cell["kind"], cell["after"]) in values)
    ]


def weakness_maps(weakness: Content) -> tuple[list[HeatMap], float]:
    """Return one heat map for each edit kind, classes by values, and the drop at the end of the colour scale."""
    drop, cells = weakness["drop"], [*weakness["by_kind"], *shown_cells(weakness)]
    drops = [abs(cell[drop]) for cell in cells if cell[drop] is not None]
    scale = max(math.ceil(10 * max(drops, default=0.1) - 1e-9) / 10, 0.1)
    maps = []
    for kind in dict.fromkeys(cell["kind"] for cell in cells):
        found: dict[Place, HeatCell] = {
            (cell["class_name"], cell["after"]): _drop_cell(cell, drop, scale) for cell in cells if cell["kind"] == kind
        }
        classes = sorted({class_name for class_name, _ in found if class_name})
        maps.append(_heat_map(f"{kind} changed to", [None, *classes], found, wide=True))
    return maps, scale


def group_attributes(groups: Sequence[Content]) -> list[str]:
    """Return the attributes with 2 to MAX_COLUMNS values."""
    names = list(dict.fromkeys(name for group in groups for name in group["values"]))
    return [name for name in names if 2 <= len({group["values"].get(name) for group in groups}) <= MAX_COLUMNS]


def group_map(
    groups: Sequence[Content], attribute: str, *, title: str, classes: Sequence[str], dominant: Content
) -> HeatMap:
    """Return accuracy by class and one attribute's value, over all other attributes; dominant values are marked."""
    members: dict[Place, list[Content]] = defaultdict(list)
    for group in groups:
        for value in {None, group["values"].get(attribute)}:
            members[group["class_name"], value].append(group)
    usual = {(name, values[attribute]) for name, values in dominant.items() if attribute in values}
    found = {place: _accuracy_cell(there, is_usual=place in usual) for place, there in members.items()}
    return _heat_map(title, classes, found)


def group_name(group: Content) -> str:
    """Return a group as words: sneaker, background grass."""
    return ", ".join([group["class_name"], *(f"{name} {value}" for name, value in group["values"].items())])


def shown_classes(groups: Sequence[Content]) -> list[str]:
    """Return at most MAX_ROWS classes, those with the worst groups, sorted by name."""
    ordered = sorted(groups, key=lambda group: float(group["accuracy"]))
    return sorted(list(dict.fromkeys(str(group["class_name"]) for group in ordered))[:MAX_ROWS])


def _heat_map(
    title: str, classes: Sequence[str | None], found: Mapping[Place, HeatCell], *, wide: bool = False
) -> HeatMap:
    values = sorted({value for _, value in found if value})
    rows = [(name or "all classes", [found.get((name, at), EMPTY) for at in (None, *values)]) for name in classes]
    return HeatMap(title=title, columns=["any", *values], rows=rows, wide=wide)


def _drop_cell(cell: Content, drop: str, scale: float) -> HeatCell:
    if cell[drop] is None:
        return EMPTY
    value, low, high = cell[drop], cell[f"{drop}_low"], cell[f"{drop}_high"]
    if abs(value) < NEUTRAL * scale:
        css = HARM[0]
    elif value < 0:
        css = HELP[heat_level(-value, (0.0, scale), len(HELP))]
    else:
        css = HARM[heat_level(value, (0.0, scale), len(HARM))]
    return HeatCell(
        text=signed(value),
        notes=(f"{signed(low)} to {signed(high)}", f"n {cell['n_sources']}"),
        css=f"{css} sure" if cell["significant"] else css,
        title=f"{signed(value)} points ({signed(low)} to {signed(high)}), {cell['n_sources']} sources, "
        f"{cell['n_edits']} edits, {'significant' if cell['significant'] else 'not significant'}",
    )


def _accuracy_cell(groups: Sequence[Content], *, is_usual: bool) -> HeatCell:
    n, correct = sum(int(group["n"]) for group in groups), sum(int(group["correct"]) for group in groups)
    low, high = wilson_interval(correct, n)
    return HeatCell(
        text=("◆\u202f" if is_usual else "") + f"{100 * correct / n:.0f}",
        css=HARM[heat_level(1 - correct / n, (0.0, 1.0), len(HARM))],
        title=f"{correct} of {n} right ({100 * low:.0f} to {100 * high:.0f}%)",
    )


def signed(value: float) -> str:
    """Return a share as signed points with a true minus: +41, −3, 0."""
    points = round(100 * value)
    return f"{'+' if points > 0 else '−' if points < 0 else ''}{abs(points)}"


def key_of(low: str, high: str, *, with_help: bool = False) -> Content:
    """Return the colour key of a heat map: the words at its two ends and its colours."""
    return {"low": low, "high": high, "colours": [*reversed(HELP), *HARM] if with_help else list(HARM)}
