"""Allocate a round: read what is known of each cell, and let the bandit share out the edits of each class."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.probe.pairs import Pairs
from engine.rounds.allocation import Allocation, CellShare, perturber_of
from engine.rounds.bandit import Beliefs, Floats, Ints, beliefs, promise, within_limits
from engine.runfile.perturber import PerturberConfig
from engine.runfile.run import RunFile
from engine.sample import EditKind, content_seed

# A value is a cell of its own once it was tried so often; the others of its kind are one cell together.
MIN_TRIED = 10
MAX_VALUES = 24
DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Hold what a round goes by: the answers of the newest classifier to validation edits, and all edits so far.

    `candidates` has the columns of engine/shards/rows.py; `classifier` is the digest that names the answers.
    """

    plan: str
    classifier: str
    edits_accuracy: float | None
    pairs: Pairs
    candidates: pa.Table


class _Cell(NamedTuple):
    class_name: str
    kind: EditKind
    value: str | None
    severity: float


def allocate(run: RunFile, classes: Sequence[str], number: int, evidence: Evidence) -> Allocation:
    """Return how round `number` spends its edits: a function of the arguments alone, of no clock and no order.

    The expected gain of a cell is its weakness times its accept rate; the edits of a class are shared out by it.
    """
    _, config = perturber_of(run)
    is_edit = pc.equal(evidence.candidates["role"], "counterfactual")
    # A steered edit was chosen with the classifier's answers: it says nothing of how edits of its cell fare.
    edits = evidence.candidates.filter(pc.and_not(is_edit, evidence.candidates["edit_steered"]))
    cells = _cells(config, classes, _known_values(config, edits))
    levels = _levels(cells)
    known = _Known(cells)
    weakness, num_probed = known.believe(_answers(evidence.pairs), levels)
    accepted, num_tried = known.believe(_verdicts(edits), levels)
    budget = sum(config.edits.values()) * len(config.severities)
    shares = np.zeros(len(cells))
    lifted, held = np.zeros((2, len(cells)), np.bool_)
    class_of = np.array([classes.index(cell.class_name) for cell in cells])
    kind_of = np.array([list(config.edits).index(cell.kind) for cell in cells])
    is_value = np.array([cell.value is not None for cell in cells])
    for label, class_name in enumerate(classes):
        of_class = np.flatnonzero(class_of == label)
        seed = content_seed(run.seed, f"rounds/{number}/{class_name}")
        raw = promise(weakness, accepted, of_class, budget, seed)
        kinds = np.unique(kind_of[of_class], return_inverse=True)[1]
        shares[of_class], lifted[of_class], held[of_class] = within_limits(raw, kinds, is_value[of_class], run.rounds)
    return Allocation(
        number=number,
        plan=evidence.plan,
        classifier=evidence.classifier,
        edits_accuracy=evidence.edits_accuracy,
        num_edits=len(evidence.pairs.keys),
        budget=budget,
        floor=run.rounds.floor,
        cap=run.rounds.cap,
        cells=tuple(
            CellShare(
                **cell._asdict(),
                share=round(float(shares[index]), DIGITS),
                weakness=round(float(weakness.mean[index]), DIGITS),
                num_probed=int(num_probed[index]),
                accept_rate=round(float(accepted.mean[index]), DIGITS),
                num_tried=int(num_tried[index]),
                gain=round(float(weakness.mean[index] * accepted.mean[index]), DIGITS),
                limit="cap" if held[index] else "floor" if lifted[index] else None,
            )
            for index, cell in enumerate(cells)
        ),
    )


class _Known:
    """Count observations by cell."""

    def __init__(self, cells: Sequence[_Cell]) -> None:
        self._index = {cell: index for index, cell in enumerate(cells)}

    def believe(self, seen: Iterable[tuple[_Cell, float]], levels: Sequence[Ints]) -> tuple[Beliefs, Ints]:
        """Return what is believed of each cell, and the number of observations of its own."""
        hits: Floats = np.zeros(len(self._index))
        counts: Ints = np.zeros(len(self._index), np.int64)
        for cell, outcome in seen:
            # A value that is no cell of its own counts for the rest of its kind; another kind or severity for none.
            index = self._index.get(cell, self._index.get(cell._replace(value=None)))
            if index is not None:
                hits[index] += outcome
                counts[index] += 1
        return beliefs(hits, counts, levels), counts


def _answers(pairs: Pairs) -> Iterable[tuple[_Cell, float]]:
    """Yield the share of its confidence in the true class that each edit takes from the classifier."""
    unedited = np.where(np.isfinite(pairs.p_placebo), pairs.p_placebo, pairs.p_source)
    lost = np.clip(unedited - pairs.p_edit, 0, 1)
    for label, kind, after, severity, outcome in zip(
        pairs.label, pairs.kind, pairs.after, pairs.severity, lost, strict=True
    ):
        value = pairs.afters[after].casefold()
        yield _Cell(pairs.classes[int(label)], pairs.kinds[kind], value, float(severity)), float(outcome)


def _verdicts(edits: pa.Table) -> Iterable[tuple[_Cell, float]]:
    columns = (edits[name].to_pylist() for name in ("class_name", "edit_kind", "edit_after", "edit_severity"))
    accepted = pc.fill_null(edits["accepted"], True).to_pylist()
    for class_name, kind, after, severity, outcome in zip(*columns, accepted, strict=True):
        yield _Cell(class_name, kind, after.casefold(), severity), float(outcome)


def _known_values(config: PerturberConfig, edits: pa.Table) -> Mapping[EditKind, list[str]]:
    """Return the values of each listed kind that were tried often enough, in order of their names."""
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


def _levels(cells: Sequence[_Cell]) -> list[Ints]:
    """Return the groups that a cell's numbers are shrunk towards: its kind, then its class and kind."""
    levels = []
    for names in ([cell.kind for cell in cells], [f"{cell.class_name}/{cell.kind}" for cell in cells]):
        levels.append(np.unique(names, return_inverse=True)[1].astype(np.int64))
    return levels
