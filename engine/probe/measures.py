"""The measures of a cell of pairs, and its test.

Signs: every drop, sensitivity and effect is before minus after, so positive means harm. All numbers of a cell use
the same rows: a source counts once for each of its accepted edits, in accuracy_source too, so drop = flips - repairs.

    accuracy_drop    right(source) - right(edit) over edits; accuracy_drop_macro is the mean over sources of their means
    artefact_drop    right(source) - right(placebo): the effect of the generator alone
    corrected_drop   right(placebo) - right(edit): the effect of the change of content
    flip_rate        share of right(source) that the edit makes wrong; repair_rate the share of wrong it makes right
    change_rate      share of edits with another prediction than their source, right or wrong
    sensitivity      p(label | source) - p(label | edit); absolute_sensitivity is the mean of its size
    artefact_effect  p(label | source) - p(label | placebo)
    corrected_effect p(label | placebo) - p(label | edit); the two add up to the sensitivity where there is a placebo
"""

import numpy as np

from engine.probe.pairs import Pairs
from engine.statistics import CellIntervals, Floats, Ints, Prior, Ratio, SourceBootstrap, paired_test

SIGN = "drops, sensitivity and effects are before minus after: positive means harm"


def measure(
    pairs: Pairs, rows: Ints, cell: Ints, num_cells: int, bootstrap: SourceBootstrap
) -> dict[str, CellIntervals]:
    """Return every measure of the cells with its intervals, by name."""
    found = ratios(pairs, rows, cell, num_cells)
    intervals = bootstrap.intervals(pairs.cluster[rows], cell, num_cells, list(found.values()))
    return dict(zip(found, intervals, strict=True))


def measure_drop(pairs: Pairs, rows: Ints, cell: Ints, num_cells: int, bootstrap: SourceBootstrap) -> CellIntervals:
    """Return the drop that ranks cells, without the other measures."""
    ratio = ratios(pairs, rows, cell, num_cells)[drop_name(pairs)]
    (intervals,) = bootstrap.intervals(pairs.cluster[rows], cell, num_cells, [ratio])
    return intervals


def drop_name(pairs: Pairs) -> str:
    """Return the name of the drop that ranks cells: the corrected one where the run has placebos."""
    return "corrected_drop" if pairs.has_placebos else "accuracy_drop"


def ratios(pairs: Pairs, rows: Ints, cell: Ints, num_cells: int) -> dict[str, Ratio]:
    """Return every measure of the cells as a ratio over their pairs: `rows` are pairs, `cell` their cells."""
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


def p_values(pairs: Pairs, rows: Ints, cell: Ints, num_cells: int, min_drop: float = 0.0) -> list[float]:
    """Return each cell's p-value of its edits against the placebos, in a cell without placebos against the sources.

    The null hypothesis is a drop of at most `min_drop`.
    """
    placebo, edit, cluster = pairs.right_placebo[rows], pairs.right_edit[rows], pairs.cluster[rows]
    has_placebo = np.bincount(cell[np.isfinite(placebo)], minlength=num_cells) > 0
    before = np.where(has_placebo[cell], placebo, pairs.right_source[rows])
    first, pair = np.unique(cluster * num_cells + cell, return_inverse=True)
    net = np.bincount(pair, np.nan_to_num(edit - before))
    allowed = min_drop * np.bincount(pair, np.isfinite(before))
    in_cell = first % num_cells
    return [paired_test(net[in_cell == index], allowed[in_cell == index]) for index in range(num_cells)]


def _edits_of_source(source: Ints, cell: Ints, num_cells: int) -> Floats:
    """Return for each row the number of rows with the same source in the same cell."""
    _, pair, count = np.unique(source * num_cells + cell, return_inverse=True, return_counts=True)
    return np.asarray(count[pair], np.float64)
