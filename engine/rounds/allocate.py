"""Allocate one round: estimate weakness and accept rate by cell, then split each class's edits by Thompson sampling."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.probe.pairs import Pairs
from engine.rounds.allocation import Allocation, CellShare, perturber_of
from engine.rounds.bandit import BetaPosterior, crossed_posterior, thompson_shares, within_limits
from engine.runfile.perturber import PerturberConfig
from engine.runfile.run import RunFile
from engine.sample import EditKind, content_seed
from engine.statistics import Floats, Ints

# A value has a cell of its own after so many edits; the rarer values of a kind are pooled in one cell (value None).
MIN_TRIED = 10
MAX_VALUES = 24
DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Inputs of an allocation: the newest classifier's predictions on validation edits, and the verdicts of all edits.

    `candidates` has the columns of engine/shards/rows.py; `classifier` is the digest of the one that predicted.
    """

    plan: str
    classifier: str
    pairs: Pairs
    candidates: pa.Table


class _Cell(NamedTuple):
    class_name: str
    kind: EditKind
    value: str | None
    severity: float


def allocate(run: RunFile, classes: Sequence[str], number: int, evidence: Evidence) -> Allocation:
    """Return the allocation of round `number`, a pure function of its arguments.

    The expected gain of a cell is its weakness times its accept rate; each class's edits are split by it.
    """
    _, config = perturber_of(run)
    edits = evidence.candidates.filter(pc.equal(evidence.candidates["role"], "counterfactual"))
    cells = _cells(config, classes, _frequent_values(config, edits))
    weakness, num_probed = _posterior(cells, _confidence_lost(evidence.pairs))
    accepted, num_tried = _posterior(cells, _verdicts(edits))
    budget = sum(config.edits.values()) * len(config.severities)
    shares = np.zeros(len(cells))
    at_floor, at_cap = np.zeros((2, len(cells)), np.bool_)
    kind_of = np.array([list(config.edits).index(cell.kind) for cell in cells])
    is_value = np.array([cell.value is not None for cell in cells])
    for class_name in classes:
        rows = np.flatnonzero([cell.class_name == class_name for cell in cells])
        seed = content_seed(run.seed, f"rounds/{number}/{class_name}")
        wanted = thompson_shares(weakness, accepted, rows, budget, seed)
        kinds = np.unique(kind_of[rows], return_inverse=True)[1]
        shares[rows], at_floor[rows], at_cap[rows] = within_limits(wanted, kinds, is_value[rows], run.rounds)

    right = evidence.pairs.right_edit

    def rounded(values: Floats, index: int) -> float:
        return round(float(values[index]), DIGITS)

    return Allocation(
        number=number,
        plan=evidence.plan,
        classifier=evidence.classifier,
        edits_accuracy=round(float(right.mean()), DIGITS) if len(right) else None,
        num_edits=len(right),
        budget=budget,
        floor=run.rounds.floor,
        cap=run.rounds.cap,
        cells=tuple(
            CellShare(
                **cell._asdict(),
                share=rounded(shares, index),
                weakness=rounded(weakness.mean, index),
                num_probed=int(num_probed[index]),
                accept_rate=rounded(accepted.mean, index),
                num_tried=int(num_tried[index]),
                gain=rounded(weakness.mean * accepted.mean, index),
                limit="cap" if at_cap[index] else "floor" if at_floor[index] else None,
            )
            for index, cell in enumerate(cells)
        ),
    )


def _posterior(cells: Sequence[_Cell], observations: Iterable[tuple[_Cell, float]]) -> tuple[BetaPosterior, Ints]:
    """Return the Beta posterior of each cell and its own number of observations (num_cells,).

    An observation is a cell and a success in [0, 1]. A value without a cell falls back to the pooled cell of its kind
    (value None); an unlisted kind or severity is ignored. Cells are shrunk towards their kind, and within it towards
    their class and their value.
    """
    index_of = {cell: index for index, cell in enumerate(cells)}
    successes: Floats = np.zeros(len(cells))
    trials: Ints = np.zeros(len(cells), np.int64)
    for cell, success in observations:
        index = index_of.get(cell, index_of.get(cell._replace(value=None)))
        if index is not None:
            successes[index] += success
            trials[index] += 1
    names = (
        [cell.kind for cell in cells],
        [(cell.kind, cell.class_name) for cell in cells],
        [(cell.kind, cell.value) for cell in cells],
    )
    kinds, *groupings = (_numbered(each) for each in names)
    return crossed_posterior(successes, trials, kinds, groupings), trials


def _numbered(names: Sequence[Hashable]) -> Ints:
    """Return a number for each name, equal where the names are."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def _confidence_lost(pairs: Pairs) -> Iterable[tuple[_Cell, float]]:
    """Yield each edit's cell and drop of p(label) from the placebo (without one, the source), clipped to [0, 1]."""
    unedited = np.where(np.isfinite(pairs.p_placebo), pairs.p_placebo, pairs.p_source)
    lost = np.clip(unedited - pairs.p_edit, 0, 1)
    for label, kind, after, severity, drop in zip(
        pairs.label, pairs.kind, pairs.after, pairs.severity, lost, strict=True
    ):
        value = pairs.afters[after].casefold()
        yield _Cell(pairs.classes[int(label)], pairs.kinds[kind], value, float(severity)), float(drop)


def _verdicts(edits: pa.Table) -> Iterable[tuple[_Cell, float]]:
    """Yield each edit's cell and 1 where it was accepted, else 0."""
    columns = (edits[name].to_pylist() for name in ("class_name", "edit_kind", "edit_after", "edit_severity"))
    accepted = pc.fill_null(edits["accepted"], True).to_pylist()
    for class_name, kind, after, severity, is_accepted in zip(*columns, accepted, strict=True):
        yield _Cell(class_name, kind, after.casefold(), severity), float(is_accepted)


def _frequent_values(config: PerturberConfig, edits: pa.Table) -> Mapping[EditKind, list[str]]:
    """Return for each listed kind its values with at least MIN_TRIED edits, at most MAX_VALUES, sorted."""
    tried = Counter(
        (kind, after.casefold())
        for kind, after in zip(edits["edit_kind"].to_pylist(), edits["edit_after"].to_pylist(), strict=True)
    )
    often = sorted((item for item in tried.items() if item[1] >= MIN_TRIED), key=lambda item: (-item[1], item[0]))
    return {
        kind: sorted([value for (of_kind, value), _ in often if of_kind == kind][:MAX_VALUES])
        for kind, count in config.edits.items()
        if count
    }


def _cells(config: PerturberConfig, classes: Sequence[str], values: Mapping[EditKind, list[str]]) -> list[_Cell]:
    return [
        _Cell(class_name, kind, value, severity)
        for class_name in classes
        for kind, known in values.items()
        for value in (*known, None)
        for severity in config.severities
    ]
