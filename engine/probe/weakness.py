"""The weakness table: which (class, edit kind, edit value) makes the classifier fail, with intervals.

Found and scored apart. The cell that looks worst is partly the one that was unlucky, so the sources that ranked it
overstate it (winner's curse). A hash of their split keys halves the sources: the discovery half ranks the cells, by the
lower bound of their drop, and every measure of a cell comes from the scoring half alone, which no rank has seen. Rows
that no rank chooses (`overall`, and `by_kind`, where each kind is a row) are over all sources.

Tested on all sources. p_value is of "edits cost at most `min_drop` more than placebos" (McNemar, clustered by split
key), q_value its Benjamini-Hochberg value over all reported cells and kinds together. Which cells are reported depends
on counts alone, never on an answer, so the correction counts every look. significant means q_value <= 1 - confidence.
Why not "cost nothing": a generator that changes something disturbs the rest more than one that changes nothing, so a
placebo takes away the most of its doing, not all. On edits a clean classifier loses 2 to 4 points (`make proofs`).

Simulated with 120 to 720 sources, 10 classes, 8 backgrounds, 8 colours and a min_drop of 0
(tests/engine/probe/test_weakness.py holds a shorter form):
- The interval of the first row holds the truth in 93 to 100 % of the runs, and its drop is off by 3 points at most on
  average. Ranked and measured on all sources it would be 40 to 98 %, and 4 to 20 points too much.
- Without any weakness at most one run in fifty calls a cell significant.
- Of planted cells of 18 sources the test on all sources finds 47 %; one on the scoring half alone, or one on each half
  at half the rate, 14 %. Of small cells the halves agree on the first in 0 to 25 % of the runs, so that numbers of both
  halves joined would be of no one cell.
- Whoever reads only significant rows chooses by both halves: the first of these still covers in 92 to 100 %, but its
  drop is 3 to 8 points too large.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.canonical import as_json
from engine.probe.measures import SIGN, drop_name, measure, measure_drop, p_values
from engine.probe.pairs import Pairs
from engine.runfile.probe import ProbeConfig
from engine.sample import Json
from engine.statistics import (
    UNDEFINED,
    CellIntervals,
    Interval,
    Ints,
    SourceBootstrap,
    benjamini_hochberg,
    cell_sources,
    minimum_detectable_effect,
)

Level = Literal["class, kind, after", "class, kind", "kind, after", "kind", "all"]

LEVELS: tuple[Level, ...] = ("class, kind, after", "class, kind", "kind, after")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Hold the measurements of one cell.

    `measures` has each measure of engine.probe.measures with its interval, NaN where it is undefined (no placebo, no
    source that was right). They and the counts are of the scoring half in `cells`, of all sources in `overall` and
    `by_kind`. Corrected and artefact measures are over the `n_placebo_sources` sources that have an accepted placebo.
    `discovery_drop` is what ranks the cell, over `n_discovery_sources` other sources. The drop that the test on all
    `n_tested_sources` finds with a power of 80 % is `minimum_detectable_drop`.
    """

    level: Level
    class_name: str | None = None
    kind: str | None = None
    after: str | None = None
    n_sources: int
    n_edits: int
    n_placebo_sources: int
    n_discovery_sources: int
    n_tested_sources: int
    measures: Mapping[str, Interval]
    discovery_drop: Interval
    tested_drop: float
    minimum_detectable_drop: float
    p_value: float = math.nan
    q_value: float = math.nan
    significant: bool = False

    @property
    def place(self) -> tuple[Level, str | None, str | None, str | None]:
        """Return what tells a cell from the others of its table."""
        return self.level, self.class_name, self.kind, self.after

    def to_json(self) -> dict[str, Json]:
        """Return one flat object: each measure as `name`, `name_low` and `name_high`, null where undefined."""
        content: dict[str, Json] = as_json({**vars(self), **self.measures, "measures": None})
        del content["measures"]
        return content


@dataclass(frozen=True, kw_only=True)
class Weakness:
    """Hold the ranked cells, and the rows of the whole run and of each kind of edit."""

    overall: Cell | None
    by_kind: tuple[Cell, ...]
    cells: tuple[Cell, ...]
    skipped_cells: int
    sources: dict[str, int]
    has_placebos: bool
    confidence: float
    num_bootstraps: int
    min_sources: int
    min_drop: float

    def to_json(self) -> dict[str, Json]:
        """Return the table as plain JSON, with the names of what ranks the cells and of their drop."""
        return {
            **as_json(vars(self)),
            "ranked_by": "discovery_drop_low",
            "drop": "corrected_drop" if self.has_placebos else "accuracy_drop",
            "sign": SIGN,
        }


def weakness(pairs: Pairs, config: ProbeConfig, *, seed: int = 0) -> Weakness:
    """Return the weakness table of a classifier's answers to sources, placebos and accepted edits."""
    bootstrap = SourceBootstrap(
        max(1, pairs.num_clusters), num_draws=config.num_bootstraps, confidence=config.confidence, seed=seed
    )
    everything = np.arange(len(pairs.source))
    cells: list[Cell] = []
    skipped = 0
    for level in LEVELS:
        by_class = level.startswith("class")
        blocks = [everything[pairs.label == label] for label in np.unique(pairs.label)] if by_class else [everything]
        for rows in blocks:
            found, small = _cells_of(pairs, rows, level, bootstrap, config)
            cells += found
            skipped += small
    by_kind, few = _cells_of(pairs, everything, "kind", bootstrap, config)
    overall, _ = _cells_of(pairs, everything, "all", bootstrap, config)
    cells, by_kind = _with_q_values(cells, by_kind, config.confidence)
    return Weakness(
        overall=overall[0] if overall else None,
        by_kind=tuple(by_kind),
        cells=tuple(sorted(cells, key=_rank)),
        skipped_cells=skipped + few,
        sources=pairs.splits,
        has_placebos=pairs.has_placebos,
        confidence=config.confidence,
        num_bootstraps=config.num_bootstraps,
        min_sources=config.min_sources,
        min_drop=config.min_drop,
    )


def _cells_of(
    pairs: Pairs, rows: Ints, level: Level, bootstrap: SourceBootstrap, config: ProbeConfig
) -> tuple[list[Cell], int]:
    """Return the cells of one level among these rows, and the number left out for having too few sources."""
    if not len(rows):
        return [], 0
    columns = {"class": pairs.label, "kind": pairs.kind, "after": pairs.after}
    names = [] if level == "all" else level.split(", ")
    values = np.stack([columns[name][rows] for name in names] or [np.zeros(len(rows), np.int64)], axis=1)
    keys, cell = np.unique(values, axis=0, return_inverse=True)
    large = cell_sources(pairs.cluster[rows], cell, len(keys)) >= (1 if level == "all" else config.min_sources)
    kept = large[cell]
    if not kept.any():
        return [], len(keys)
    number = np.cumsum(large) - 1
    rows, cell, num_cells = rows[kept], number[cell[kept]], int(large.sum())
    measured = _measure(pairs, rows, cell, num_cells, bootstrap, ranked=level in LEVELS)
    tests = p_values(pairs, rows, cell, num_cells, config.min_drop)
    cells = []
    for index, key in enumerate(keys[large]):
        at = dict(zip(names, (int(part) for part in key), strict=False))
        cells.append(
            replace(
                measured.cell(index, level, bootstrap.confidence),
                p_value=tests[index],
                class_name=pairs.classes[at["class"]] if "class" in at else None,
                kind=pairs.kinds[at["kind"]] if "kind" in at else None,
                after=pairs.afters[at["after"]] if "after" in at else None,
            )
        )
    return cells, int((~large).sum())


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """Hold arrays of (num_cells,): counts and measures where cells are scored, and what ranked them."""

    n_sources: Ints
    n_edits: Ints
    n_placebo_sources: Ints
    n_discovery_sources: Ints
    n_tested_sources: Ints
    measures: Mapping[str, CellIntervals]
    discovery: CellIntervals | None
    tested: CellIntervals

    def cell(self, index: int, level: Level, confidence: float) -> Cell:
        """Return one cell, which has no names and no test yet."""
        return Cell(
            level=level,
            n_sources=int(self.n_sources[index]),
            n_edits=int(self.n_edits[index]),
            n_placebo_sources=int(self.n_placebo_sources[index]),
            n_discovery_sources=int(self.n_discovery_sources[index]),
            n_tested_sources=int(self.n_tested_sources[index]),
            measures={name: intervals.interval(index) for name, intervals in self.measures.items()},
            discovery_drop=self.discovery.interval(index) if self.discovery else UNDEFINED,
            tested_drop=float(self.tested.value[index]),
            minimum_detectable_drop=minimum_detectable_effect(float(self.tested.error[index]), confidence),
        )


def _measure(
    pairs: Pairs, rows: Ints, cell: Ints, num_cells: int, bootstrap: SourceBootstrap, *, ranked: bool
) -> _Measured:
    """Measure cells: where they are ranked on the discovery half and scored on the other, else on all sources."""
    discovery = pairs.in_discovery[rows] & ranked
    scored = ~discovery
    measures = measure(pairs, rows[scored], cell[scored], num_cells, bootstrap)

    def drop(chosen: NDArray[np.bool_]) -> CellIntervals:
        return measure_drop(pairs, rows[chosen], cell[chosen], num_cells, bootstrap)

    def count(chosen: NDArray[np.bool_]) -> Ints:
        return cell_sources(pairs.source[rows][chosen], cell[chosen], num_cells)

    return _Measured(
        n_sources=count(scored),
        n_edits=np.bincount(cell[scored], minlength=num_cells).astype(np.int64),
        n_placebo_sources=count(scored & np.isfinite(pairs.right_placebo[rows])),
        n_discovery_sources=count(discovery),
        n_tested_sources=count(scored | discovery),
        measures=measures,
        discovery=drop(discovery) if ranked else None,
        tested=drop(scored | discovery) if ranked else measures[drop_name(pairs)],
    )


def _with_q_values(cells: Sequence[Cell], by_kind: Sequence[Cell], confidence: float) -> tuple[list[Cell], list[Cell]]:
    """Return cells and kinds with the q-values of one family, and whether they are significant."""
    q_values = benjamini_hochberg([cell.p_value for cell in (*cells, *by_kind)])
    tested = [
        replace(cell, q_value=q, significant=q <= 1 - confidence and cell.tested_drop > 0)
        for cell, q in zip((*cells, *by_kind), q_values, strict=True)
    ]
    return tested[: len(cells)], tested[len(cells) :]


def _rank(cell: Cell) -> tuple[float, float, str]:
    """Sort by the lower bound of the drop in the discovery half, then by the drop, then by name."""
    drop = cell.discovery_drop
    if math.isnan(drop.value):
        return math.inf, math.inf, str(cell.place)
    return -drop.low, -drop.value, str(cell.place)
