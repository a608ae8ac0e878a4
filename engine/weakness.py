"""The weakness table: which (class, edit kind, edit value) makes the classifier fail, with intervals.

Signs: every drop, sensitivity and effect is before minus after, so positive means harm. All numbers of a cell are over
the same sources: one counts once for each of its accepted edits, in accuracy_source too, so drop = flips - repairs.

    accuracy_drop    right(source) - right(edit) over edits; accuracy_drop_macro is the mean over sources of their means
    artefact_drop    right(source) - right(placebo): what the generator breaks by itself
    corrected_drop   right(placebo) - right(edit): what the change of content breaks
    sensitivity      p(label | source) - p(label | edit); artefact_effect and corrected_effect split it in the same way

Ranking: by the lower bound of corrected_drop (of accuracy_drop where the run has no placebos), so a cell comes first
when its harm is both large and certain. p_value tests the same difference (McNemar, clustered by source), q_value is
its Benjamini-Hochberg value over all reported cells together; significant means q_value <= 1 - confidence, and harm.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa

from engine.pairs import Pairs, read_pairs
from engine.runfile import ProbeConfig
from engine.sample import Json
from engine.statistics import (
    CellIntervals,
    Floats,
    Interval,
    Ints,
    Prior,
    Ratio,
    SourceBootstrap,
    benjamini_hochberg,
    cell_sources,
    minimum_detectable_effect,
    paired_test,
)

Level = Literal["class, kind, after", "class, kind", "kind, after", "kind", "all"]

LEVELS: tuple[Level, ...] = ("class, kind, after", "class, kind", "kind, after", "kind")
SIGN = "drops, sensitivity and effects are before minus after: positive means harm"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Hold the measurements of one cell.

    `measures` has each measure with its interval, NaN where it is undefined (no placebo, no source that was right).
    Corrected and artefact measures are over the `n_placebo_sources` sources that have an accepted placebo.
    """

    level: Level
    class_name: str | None
    kind: str | None
    after: str | None
    n_sources: int
    n_edits: int
    n_placebo_sources: int
    measures: Mapping[str, Interval]
    minimum_detectable_drop: float
    p_value: float
    q_value: float = math.nan
    significant: bool = False

    def to_json(self) -> dict[str, Json]:
        """Return one flat object: each measure as `name`, `name_low` and `name_high`, null where undefined."""
        numbers: dict[str, float] = {}
        for name, interval in self.measures.items():
            numbers |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        numbers |= {
            "minimum_detectable_drop": self.minimum_detectable_drop,
            "p_value": self.p_value,
            "q_value": self.q_value,
        }
        return {
            "level": self.level,
            "class_name": self.class_name,
            "kind": self.kind,
            "after": self.after,
            "n_sources": self.n_sources,
            "n_edits": self.n_edits,
            "n_placebo_sources": self.n_placebo_sources,
            **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
            "significant": self.significant,
        }


@dataclass(frozen=True, kw_only=True)
class Weakness:
    """Hold the ranked cells and the whole run's own row."""

    overall: Cell | None
    cells: tuple[Cell, ...]
    skipped_cells: int
    sources: dict[str, int]
    has_placebos: bool
    confidence: float
    num_bootstraps: int
    min_sources: int

    def to_json(self) -> dict[str, Json]:
        """Return the table as plain JSON, what matters first."""
        return {
            "overall": self.overall.to_json() if self.overall else None,
            "cells": [cell.to_json() for cell in self.cells],
            "skipped_cells": self.skipped_cells,
            "sources": dict(self.sources),
            "has_placebos": self.has_placebos,
            "confidence": self.confidence,
            "num_bootstraps": self.num_bootstraps,
            "min_sources": self.min_sources,
            "ranked_by": "corrected_drop_low" if self.has_placebos else "accuracy_drop_low",
            "sign": SIGN,
        }


def weakness(predictions: pa.Table, config: ProbeConfig, *, seed: int = 0) -> Weakness:
    """Return the weakness table of a classifier's predictions on sources, placebos and accepted edits.

    Raises LeakError where a prediction is of the test split.
    """
    pairs = read_pairs(predictions)
    bootstrap = SourceBootstrap(
        max(1, pairs.num_sources), num_draws=config.num_bootstraps, confidence=config.confidence, seed=seed
    )
    everything = np.arange(len(pairs.source))
    has_placebos = bool(np.isfinite(pairs.right_placebo).any())
    cells: list[Cell] = []
    skipped = 0
    for level in LEVELS:
        by_class = level.startswith("class")
        blocks = [everything[pairs.label == label] for label in np.unique(pairs.label)] if by_class else [everything]
        for rows in blocks:
            found, small = _cells_of(pairs, rows, level, bootstrap, config.min_sources)
            cells += found
            skipped += small
    overall, _ = _cells_of(pairs, everything, "all", bootstrap, 1)
    return Weakness(
        overall=overall[0] if overall else None,
        cells=_ranked(cells, has_placebos, config.confidence),
        skipped_cells=skipped,
        sources=pairs.splits,
        has_placebos=has_placebos,
        confidence=config.confidence,
        num_bootstraps=config.num_bootstraps,
        min_sources=config.min_sources,
    )


def _cells_of(
    pairs: Pairs, rows: Ints, level: Level, bootstrap: SourceBootstrap, min_sources: int
) -> tuple[list[Cell], int]:
    """Return the cells of one level among these rows, and the number left out for having too few sources."""
    if not len(rows):
        return [], 0
    columns = {"class": pairs.label, "kind": pairs.kind, "after": pairs.after}
    names = [] if level == "all" else level.split(", ")
    values = np.stack([columns[name][rows] for name in names] or [np.zeros(len(rows), np.int64)], axis=1)
    keys, cell = np.unique(values, axis=0, return_inverse=True)
    large = cell_sources(pairs.source[rows], cell, len(keys)) >= min_sources
    kept = large[cell]
    if not kept.any():
        return [], len(keys)
    number = np.cumsum(large) - 1
    keys, rows, cell = keys[large], rows[kept], number[cell[kept]]
    measured = _measure(pairs, rows, cell, len(keys), bootstrap)
    n_sources = cell_sources(pairs.source[rows], cell, len(keys))
    with_placebo = np.isfinite(pairs.right_placebo[rows])
    n_placebo = cell_sources(pairs.source[rows][with_placebo], cell[with_placebo], len(keys))
    p_values = _p_values(pairs, rows, cell, len(keys))
    cells = []
    for index, key in enumerate(keys):
        at = dict(zip(names, (int(part) for part in key), strict=False))
        main = measured["corrected_drop" if n_placebo[index] else "accuracy_drop"]
        cells.append(
            Cell(
                level=level,
                class_name=pairs.classes[at["class"]] if "class" in at else None,
                kind=pairs.kinds[at["kind"]] if "kind" in at else None,
                after=pairs.afters[at["after"]] if "after" in at else None,
                n_sources=int(n_sources[index]),
                n_edits=int(np.count_nonzero(cell == index)),
                n_placebo_sources=int(n_placebo[index]),
                measures={name: intervals.interval(index) for name, intervals in measured.items()},
                minimum_detectable_drop=minimum_detectable_effect(float(main.error[index]), bootstrap.confidence),
                p_value=p_values[index],
            )
        )
    return cells, int((~large).sum())


def _measure(
    pairs: Pairs, rows: Ints, cell: Ints, num_cells: int, bootstrap: SourceBootstrap
) -> dict[str, CellIntervals]:
    ratios = _ratios(pairs, rows, cell, num_cells)
    intervals = bootstrap.intervals(pairs.source[rows], cell, num_cells, list(ratios.values()))
    return dict(zip(ratios, intervals, strict=True))


def _ratios(pairs: Pairs, rows: Ints, cell: Ints, num_cells: int) -> dict[str, Ratio]:
    """Return the measures of a cell as ratios over its pairs."""
    source, placebo, edit = pairs.right_source[rows], pairs.right_placebo[rows], pairs.right_edit[rows]
    p_source, p_placebo, p_edit = pairs.p_source[rows], pairs.p_placebo[rows], pairs.p_edit[rows]
    one, paired = np.ones(len(rows)), np.isfinite(placebo).astype(np.float64)
    share = 1 / _edits_of_source(pairs.source[rows], cell, num_cells)

    def where_placebo(values: Floats, prior: Prior) -> Ratio:
        return Ratio(numerator=np.nan_to_num(values), denominator=paired, prior=prior)

    return {
        "accuracy_source": Ratio(numerator=source, denominator=one, prior="share"),
        "accuracy_placebo": where_placebo(placebo, "share"),
        "accuracy_edit": Ratio(numerator=edit, denominator=one, prior="share"),
        "accuracy_drop": Ratio(numerator=source - edit, denominator=one, prior="difference"),
        "accuracy_drop_macro": Ratio(numerator=(source - edit) * share, denominator=share, prior="difference"),
        "flip_rate": Ratio(numerator=source * (1 - edit), denominator=source, prior="share"),
        "repair_rate": Ratio(numerator=(1 - source) * edit, denominator=1 - source, prior="share"),
        "change_rate": Ratio(numerator=pairs.changed[rows], denominator=one, prior="share"),
        "sensitivity": Ratio(numerator=p_source - p_edit, denominator=one),
        "absolute_sensitivity": Ratio(numerator=np.abs(p_source - p_edit), denominator=one),
        "corrected_drop": where_placebo(placebo - edit, "difference"),
        "corrected_effect": where_placebo(p_placebo - p_edit, "none"),
        "artefact_drop": where_placebo(source - placebo, "difference"),
        "artefact_effect": where_placebo(p_source - p_placebo, "none"),
    }


def _edits_of_source(source: Ints, cell: Ints, num_cells: int) -> Floats:
    """Return for each row the number of rows with the same source in the same cell."""
    _, pair, count = np.unique(source * num_cells + cell, return_inverse=True, return_counts=True)
    return np.asarray(count[pair], np.float64)


def _p_values(pairs: Pairs, rows: Ints, cell: Ints, num_cells: int) -> list[float]:
    """Test each cell's edits against the placebos, or against the sources in a cell without placebos."""
    placebo, edit, source = pairs.right_placebo[rows], pairs.right_edit[rows], pairs.source[rows]
    has_placebo = np.bincount(cell[np.isfinite(placebo)], minlength=num_cells) > 0
    before = np.where(has_placebo[cell], placebo, pairs.right_source[rows])
    first, pair = np.unique(source * num_cells + cell, return_inverse=True)
    net = np.bincount(pair, np.nan_to_num(edit - before))
    return [paired_test(net[first % num_cells == index]) for index in range(num_cells)]


def _ranked(cells: Sequence[Cell], has_placebos: bool, confidence: float) -> tuple[Cell, ...]:
    """Return the cells with their q-values, sorted by the lower bound of the drop, then by the drop, then by name."""
    name = "corrected_drop" if has_placebos else "accuracy_drop"

    def rank(cell: Cell) -> tuple[float, float, str]:
        drop = cell.measures[name]
        if math.isnan(drop.value):
            return math.inf, math.inf, str(cell)
        return -drop.low, -drop.value, f"{cell.level} {cell.class_name} {cell.kind} {cell.after}"

    q_values = benjamini_hochberg([cell.p_value for cell in cells])
    tested = [
        replace(cell, q_value=q, significant=q <= 1 - confidence and cell.measures[name].value > 0)
        for cell, q in zip(cells, q_values, strict=True)
    ]
    return tuple(sorted(tested, key=rank))
