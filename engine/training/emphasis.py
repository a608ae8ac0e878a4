"""How often the edits of a cell are drawn in fine-tuning: the more the probe found them to harm, the more often."""

from collections.abc import Iterable, Mapping
from typing import Any

# Class name, kind of edit, and the value that it puts in.
EditCell = tuple[str, str, str]


def draws_of_cells(weakness: Mapping[str, Any] | None, cells: Iterable[EditCell], most: int) -> dict[EditCell, int]:
    """Return how often each edit of a cell is drawn in a round: `most` times in the weakest, once in a harmless cell.

    Between the two it is in proportion to the drop in the content of weakness.json: that of the finest row that holds
    the cell. Every edit is drawn once where nothing was probed or nothing does harm: no edit is ever left out.
    """
    rows = (*weakness["cells"], *weakness["by_kind"]) if weakness else ()
    drops = {
        (row["class_name"], row["kind"], row["after"]): float(row["tested_drop"])
        for row in rows
        if row["tested_drop"] is not None
    }
    harm = {cell: _harm(cell, drops) for cell in cells}
    top = max(harm.values(), default=0.0)
    return {cell: max(1, round(most * value / top)) if top > 0 else 1 for cell, value in harm.items()}


def _harm(cell: EditCell, drops: Mapping[tuple[str | None, str | None, str | None], float]) -> float:
    class_name, kind, after = cell
    for row in (cell, (None, kind, after), (class_name, kind, None), (None, kind, None)):
        if row in drops:
            return max(0.0, drops[row])
    return 0.0
