"""The drop of each kind of edit before and after a fine-tuning: did curing one habit make another?

Mitigation of one shortcut can amplify others (Whac-A-Mole, Li et al. 2023), so every kind is compared, not the mean.
"""

from dataclasses import dataclass

import numpy as np

from engine.canonical import as_json
from engine.probe.measures import drop_name, ratios
from engine.probe.pairs import Pairs
from engine.runfile.probe import ProbeConfig
from engine.sample import Json
from engine.statistics import Interval, Ints, Ratio, cell_sources


@dataclass(frozen=True, kw_only=True)
class EditDrop:
    """A classifier's drop of accuracy by one kind of edit, or by one value of it (None: any value).

    `change` is this drop minus that of the classifier under test on the same edits, positive where it grew; None for
    that classifier itself. Intervals are of a bootstrap over split keys.
    """

    kind: str
    value: str | None
    n_sources: int
    n_edits: int
    drop: Interval
    change: Interval | None

    def to_json(self) -> Json:
        """Return one flat object: `drop` and `change`, each with its `_low` and `_high`."""
        content: Json = as_json(vars(self))
        return content


def edit_drops(pairs: Pairs, base: Pairs, config: ProbeConfig, *, seed: int = 0) -> list[EditDrop]:
    """Return the drops of a classifier by kind, and by kind and value, of cells with at least probe.min_sources.

    `base` are the answers of the classifier under test to the same edits.
    """
    if not len(pairs.source):
        return []
    bootstrap, found = pairs.bootstrap(config, seed), []
    for columns in ([pairs.kind], [pairs.kind, pairs.after]):
        keys, cell = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
        own, before = (_drop(answers, cell, len(keys)) for answers in (pairs, base))
        # Where nothing changed, half a source of pseudo-counts keeps the interval from being a point.
        change = Ratio(numerator=own.numerator - before.numerator, denominator=own.denominator, prior="difference")
        drops, changes = bootstrap.intervals(pairs.cluster, cell, len(keys), [own, change])
        sources, clusters = (cell_sources(groups, cell, len(keys)) for groups in (pairs.source, pairs.cluster))
        num_edits = np.bincount(cell, minlength=len(keys))
        found += [
            EditDrop(
                kind=pairs.kinds[key[0]],
                value=pairs.afters[key[1]] if len(key) > 1 else None,
                n_sources=int(sources[index]),
                n_edits=int(num_edits[index]),
                drop=drops.interval(index),
                change=None if pairs is base else changes.interval(index),
            )
            for index, key in enumerate(keys.tolist())
            if clusters[index] >= config.min_sources
        ]
    return found


def _drop(pairs: Pairs, cell: Ints, num_cells: int) -> Ratio:
    return ratios(pairs, np.arange(len(pairs.source)), cell, num_cells)[drop_name(pairs)]
