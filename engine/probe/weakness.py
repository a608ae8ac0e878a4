"""The weakness table: accuracy drops by class, kind of edit and value, with intervals and tests.

Sample splitting. Ranking and measuring on the same sources would overstate the first cells (selection bias, winner's
curse). A hash of their split keys halves the sources: the discovery half ranks the cells, by the lower bound of their
drop, and the scoring half alone measures them. `overall` and `by_kind` are not selected, so they use all sources.

Tests use all sources. The null hypothesis is "edits cost at most `min_drop` more accuracy than placebos" (McNemar,
clustered by split key); q_value is the Benjamini-Hochberg value over all reported cells and kinds. Which cells are
reported depends on counts alone, never on a prediction, so the correction covers every test. significant means q_value
<= 1 - confidence. The null is not a drop of 0, since the placebo removes most of the generator's own effect, not all of
it: on edits a classifier without planted weakness loses 2 to 4 points (`make proofs`).

Simulated with 120 to 720 sources, 10 classes, 8 backgrounds, 8 colours and a min_drop of 0
(tests/engine/probe/test_weakness.py holds a shorter form):
- The interval of the first row covers the true drop in 93 to 100 % of the runs; its bias is at most 3 points. Ranked
  and measured on all sources it would cover in 40 to 98 %, with a bias of 4 to 20 points.
- Without any weakness at most one run in fifty has a significant cell.
- Power on planted cells of 18 sources is 47 % for the test on all sources, 14 % for one on the scoring half or for one
  on each half at half the rate. The first cells of the halves agree in 0 to 25 % of the runs where cells are small, so
  their numbers cannot be pooled.
- A reader of significant rows alone selects by both halves: the first of these covers in 92 to 100 %, with a bias of 3
  to 8 points.
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

Level = Literal["class, kind, after", "class, kind", "kind, after", "kind", "kind, strategy", "all"]

LEVELS: tuple[Level, ...] = ("class, kind, after", "class, kind", "kind, after")


@dataclass(frozen=True, kw_only=True)
class WeaknessCell:
    """Measures and tests of one cell.

    `measures` has each measure of engine.probe.measures with its interval, NaN where it is undefined (no placebo, no
    source that was right). Measures and counts are of the scoring half in `cells`, of all sources in `overall` and
    `by_kind`. Corrected and artefact measures use the `n_placebo_sources` sources with an accepted placebo.
    `discovery_drop` ranks the cell, on the `n_discovery_sources` of the other half. `minimum_detectable_drop` is the
    drop that the test on all `n_tested_sources` detects with a power of 80 %.
    """

    level: Level
    class_name: str | None = None
    kind: str | None = None
    after: str | None = None
    strategy: str | None = None
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
    def key(self) -> tuple[Level, str | None, str | None, str | None, str | None]:
        """Return level and names, unique in a table."""
        return self.level, self.class_name, self.kind, self.after, self.strategy

    def to_json(self) -> dict[str, Json]:
        """Return one flat object: each measure as `name`, `name_low` and `name_high`, null where undefined."""
        content: dict[str, Json] = as_json({**vars(self), **self.measures, "measures": None})
        del content["measures"]
        return content


@dataclass(frozen=True, kw_only=True)
class Weakness:
    """The weakness table: ranked cells, and the rows of the whole run and of each kind of edit.

    `by_strategy` has each kind by who drew it, where several editors did.
    """

    overall: WeaknessCell | None
    by_kind: tuple[WeaknessCell, ...]
    by_strategy: tuple[WeaknessCell, ...]
    cells: tuple[WeaknessCell, ...]
    skipped_cells: int
    sources: dict[str, int]
    has_placebos: bool
    confidence: float
    num_bootstraps: int
    min_sources: int
    min_drop: float

    def to_json(self) -> dict[str, Json]:
        """Return plain JSON, with the names of the ranking measure and of the drop."""
        return {
            **as_json(vars(self)),
            "ranked_by": "discovery_drop_low",
            "drop": "corrected_drop" if self.has_placebos else "accuracy_drop",
            "sign": SIGN,
        }


def weakness(pairs: Pairs, config: ProbeConfig, *, seed: int = 0) -> Weakness:
    """Return the weakness table of a classifier's predictions on sources, placebos and accepted edits."""
    bootstrap = pairs.bootstrap(config, seed)
    everything = np.arange(len(pairs.source))
    cells: list[WeaknessCell] = []
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
    by_strategy: list[WeaknessCell] = []
    if len(pairs.strategies) > 1:
        by_strategy, few_drawn = _cells_of(pairs, everything, "kind, strategy", bootstrap, config)
        few += few_drawn
    tested = _with_q_values([*cells, *by_kind, *by_strategy], config.confidence)
    ends = len(cells), len(cells) + len(by_kind)
    return Weakness(
        overall=overall[0] if overall else None,
        by_kind=tuple(tested[slice(*ends)]),
        by_strategy=tuple(tested[ends[1] :]),
        cells=tuple(sorted(tested[: ends[0]], key=_rank)),
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
) -> tuple[list[WeaknessCell], int]:
    """Return the cells of one level among these rows, and the number of cells with too few sources."""
    if not len(rows):
        return [], 0
    min_sources = 1 if level == "all" else config.min_sources
    keys, cell = _keys_of(pairs, rows, level)
    is_large = cell_sources(pairs.cluster[rows], cell, len(keys)) >= min_sources
    if not is_large.any():
        return [], len(keys)
    kept, renumbered = is_large[cell], np.cumsum(is_large) - 1
    rows, cell, num_cells = rows[kept], renumbered[cell[kept]], int(is_large.sum())
    measured = _measure(pairs, rows, cell, num_cells, level, bootstrap)
    tests = p_values(pairs, rows, cell, num_cells, config.min_drop)
    cells = []
    for index, key in enumerate(keys[is_large].tolist()):
        code = dict(zip(_columns(level), key, strict=False))
        cells.append(
            replace(
                measured[index],
                p_value=tests[index],
                class_name=pairs.classes[code["class"]] if "class" in code else None,
                kind=pairs.kinds[code["kind"]] if "kind" in code else None,
                after=pairs.afters[code["after"]] if "after" in code else None,
                strategy=pairs.strategies[code["strategy"]] if "strategy" in code else None,
            )
        )
    return cells, len(keys) - num_cells


def _columns(level: Level) -> list[str]:
    return [] if level == "all" else level.split(", ")


def _keys_of(pairs: Pairs, rows: Ints, level: Level) -> tuple[Ints, Ints]:
    """Return the distinct codes of a level's columns, (num_keys, num_columns), and the number of each row's key."""
    codes = {"class": pairs.label, "kind": pairs.kind, "after": pairs.after, "strategy": pairs.strategy}
    columns = [codes[name][rows] for name in _columns(level)] or [np.zeros(len(rows), np.int64)]
    return np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)


def _measure(
    pairs: Pairs, rows: Ints, cell: Ints, num_cells: int, level: Level, bootstrap: SourceBootstrap
) -> list[WeaknessCell]:
    """Return the cells of a level, without names and tests.

    The discovery half ranks the cells of LEVELS and the other half scores them; all sources score the others.
    """
    ranked = level in LEVELS
    discovery = pairs.in_discovery[rows] & ranked
    scored = ~discovery
    measures = measure(pairs, rows[scored], cell[scored], num_cells, bootstrap)

    def drop(chosen: NDArray[np.bool_]) -> CellIntervals:
        return measure_drop(pairs, rows[chosen], cell[chosen], num_cells, bootstrap)

    def count(chosen: NDArray[np.bool_]) -> list[int]:
        return list(map(int, cell_sources(pairs.source[rows][chosen], cell[chosen], num_cells)))

    every = scored | discovery
    n_sources, n_discovery_sources, n_tested_sources = map(count, (scored, discovery, every))
    n_placebo_sources = count(scored & np.isfinite(pairs.right_placebo[rows]))
    n_edits = np.bincount(cell[scored], minlength=num_cells).tolist()
    ranking = drop(discovery) if ranked else None
    tested = drop(every) if ranked else measures[drop_name(pairs)]
    return [
        WeaknessCell(
            level=level,
            n_sources=n_sources[index],
            n_edits=n_edits[index],
            n_placebo_sources=n_placebo_sources[index],
            n_discovery_sources=n_discovery_sources[index],
            n_tested_sources=n_tested_sources[index],
            measures={name: intervals.interval(index) for name, intervals in measures.items()},
            discovery_drop=ranking.interval(index) if ranking else UNDEFINED,
            tested_drop=float(tested.value[index]),
            minimum_detectable_drop=minimum_detectable_effect(float(tested.error[index]), bootstrap.confidence),
        )
        for index in range(num_cells)
    ]


def _with_q_values(cells: Sequence[WeaknessCell], confidence: float) -> list[WeaknessCell]:
    """Return the cells of one family of tests with their q-values and significance."""
    q_values = benjamini_hochberg([cell.p_value for cell in cells])
    return [
        replace(cell, q_value=q, significant=q <= 1 - confidence and cell.tested_drop > 0)
        for cell, q in zip(cells, q_values, strict=True)
    ]


def _rank(cell: WeaknessCell) -> tuple[float, float, str]:
    """Return the sort key: the discovery half's lower bound of the drop, then its drop, then the name."""
    drop = cell.discovery_drop
    if math.isnan(drop.value):
        return math.inf, math.inf, str(cell.key)
    return -drop.low, -drop.value, str(cell.key)
